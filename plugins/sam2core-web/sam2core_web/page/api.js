// Calls to the server. The token, if any, comes with the page's address after the #, and stays in this tab.

const said = new URLSearchParams(location.hash.slice(1)).get("token");
if (said) {
  sessionStorage.setItem("token", said);
  history.replaceState(null, "", location.pathname + location.search);
}

function headers(more = {}) {
  const token = sessionStorage.getItem("token");
  return token ? { authorization: `Bearer ${token}`, ...more } : more;
}

async function failed(answer) {
  let detail = `${answer.status} ${answer.statusText}`;
  try {
    const body = await answer.json();
    detail = Array.isArray(body.detail) ? body.detail.map((one) => one.msg).join("; ") : body.detail || detail;
  } catch { /* not JSON: the status has to do */ }
  const error = new Error(detail);
  error.status = answer.status;
  return error;
}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(`api/${path}`, options);
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  if (!answer.ok) throw await failed(answer);
  return answer;
}

export async function call(method, path, body) {
  const answer = await ask(path, {
    method,
    headers: headers(body === undefined ? {} : { "content-type": "application/json" }),
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  return answer.status === 204 ? null : answer.json();
}

export async function blob(path) {
  const answer = await ask(path, { headers: headers() });
  const name = /filename="([^"]+)"/.exec(answer.headers.get("content-disposition") || "");
  return { data: await answer.blob(), name: name ? name[1] : "download" };
}

// fetch() cannot tell how much has been sent
export function upload(file, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `api/uploads?name=${encodeURIComponent(file.name.slice(-200) || "upload")}`);
    for (const [name, value] of Object.entries(headers({ "content-type": "application/octet-stream" }))) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.onerror = () => reject(new Error("the server did not take the file: it may be too large"));
    request.onload = () => {
      let body = {};
      try { body = JSON.parse(request.responseText); } catch { /* an error page */ }
      if (request.status < 300) resolve(body);
      else reject(new Error(body.detail || `${request.status} ${request.statusText}`));
    };
    request.send(file);
  });
}

// Server-sent events of a POST: on(name, data) for each.
export async function stream(path, body, on) {
  const answer = await ask(path, {
    method: "POST", headers: headers({ "content-type": "application/json" }), body: JSON.stringify(body),
  });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const found = /^event: (.+)\ndata: (.+)$/m.exec(part);
      if (found) on(found[1], JSON.parse(found[2])); // all else are comments
    }
  }
}
