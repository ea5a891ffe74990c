// The camera: an image, or a video of some seconds, opened like an uploaded file.

import { $, toast } from "./ui.js";

const LONGEST = 10; // seconds
const TYPES = ["video/mp4;codecs=avc1", "video/webm;codecs=vp9", "video/webm;codecs=vp8", "video/webm"];
let stream = null, recorder = null, ticking = 0, facing = "environment", done = null;

export async function camera(opened) {
  if (!navigator.mediaDevices?.getUserMedia) {
    toast("Browsers give the camera only to pages from this machine (localhost) or over https.", true);
    return;
  }
  done = opened;
  if (await begin()) $("camera").showModal();
}

async function begin() {
  end();
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: facing, width: { ideal: 1280 }, height: { ideal: 720 } } });
  } catch (error) {
    toast(error.name === "NotFoundError" ? "There is no camera." : `The camera could not be opened: ${error.message}`, true);
    return false;
  }
  $("finder").srcObject = stream;
  const found = (await navigator.mediaDevices.enumerateDevices()).filter((device) => device.kind === "videoinput");
  $("flip").hidden = found.length < 2;
  $("record").hidden = !globalThis.MediaRecorder;
  return true;
}

function end() {
  clearInterval(ticking);
  stream?.getTracks().forEach((one) => one.stop());
  stream = null;
  $("finder").srcObject = null;
  $("record").textContent = "Record a video";
  $("record").classList.remove("danger");
}

async function snap() {
  const finder = $("finder");
  if (!finder.videoWidth) return;
  const still = new OffscreenCanvas(finder.videoWidth, finder.videoHeight);
  still.getContext("2d").drawImage(finder, 0, 0);
  const data = await still.convertToBlob({ type: "image/jpeg", quality: 0.95 });
  $("camera").close();
  done(new File([data], "camera.jpg"));
}

function record() {
  if (recorder) { recorder.stop(); return; }
  const type = TYPES.find((one) => MediaRecorder.isTypeSupported(one)), parts = [], started = performance.now();
  recorder = new MediaRecorder(stream, { mimeType: type, videoBitsPerSecond: 6_000_000 });
  recorder.ondataavailable = (event) => parts.push(event.data);
  recorder.onstop = () => {
    recorder = null;
    if (!$("camera").open) return; // it was closed: what was recorded is not wanted
    $("camera").close();
    done(new File([new Blob(parts, { type })], type.includes("mp4") ? "camera.mp4" : "camera.webm"));
  };
  recorder.start();
  $("record").classList.add("danger");
  const tick = () => {
    const left = LONGEST - (performance.now() - started) / 1000;
    $("record").textContent = `Stop · ${Math.max(0, left).toFixed(0)} s`;
    if (left <= 0) recorder?.stop();
  };
  tick();
  ticking = setInterval(tick, 200);
}

$("snap").onclick = snap;
$("record").onclick = record;
$("cameraclose").onclick = () => $("camera").close();
$("flip").onclick = () => { facing = facing === "user" ? "environment" : "user"; begin(); };
$("camera").addEventListener("close", () => { recorder?.stop(); end(); });
