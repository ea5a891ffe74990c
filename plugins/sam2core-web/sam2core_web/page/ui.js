// Small parts of the page that know nothing of masks.

export const $ = (id) => document.getElementById(id);

export function toast(text, bad = false) {
  const note = document.createElement("div");
  note.className = bad ? "toast bad" : "toast";
  note.textContent = text;
  $("toasts").append(note);
  setTimeout(() => note.remove(), bad ? 8000 : 3500);
}

export function busy(text) {
  $("busy").hidden = text === null;
  if (text !== null) $("busy").querySelector("span").textContent = text;
}

export function save(data, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(data);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// Dark or light: as the system says, until it is switched here.
const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => { document.documentElement.dataset.theme = localStorage.getItem("theme") || (dark.matches ? "dark" : "light"); };
dark.addEventListener("change", paint);
paint();

export function theme() {
  localStorage.setItem("theme", document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  paint();
}

const SHOWN = { " ": "Space", ArrowLeft: "←", ArrowRight: "→", Escape: "Esc" };

// table: key -> [what it does, work]; without work it is only listed. digit(number) takes 1 to 9.
export function keys(table, digit) {
  $("keylist").replaceChildren(...Object.entries(table).map(([key, [text]]) => {
    const line = document.createElement("div"), cap = document.createElement("kbd");
    cap.textContent = SHOWN[key] || (key.length === 1 ? key.toUpperCase() : key.replace(/ (\w)$/, (_, letter) => ` ${letter.toUpperCase()}`));
    line.append(text, cap);
    return line;
  }).map((line) => line));
  addEventListener("keydown", (event) => {
    const target = event.target;
    if (target.tagName === "INPUT" || target.tagName === "SELECT" || $("keys").open || event.altKey) return;
    const control = event.ctrlKey || event.metaKey;
    if (!control && /^[1-9]$/.test(event.key)) return digit(Number(event.key));
    const plain = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const name = control ? `Ctrl ${plain}` : event.shiftKey && /^[a-z]$/.test(plain) ? `Shift ${plain}` : plain;
    const work = table[name]?.[1];
    if (!work || (name === " " && target.tagName === "BUTTON")) return;
    event.preventDefault();
    work();
  });
}
