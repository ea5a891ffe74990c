// Small parts of the page that know nothing of masks.

import { blob } from "./api.js";

export const $ = (id) => document.getElementById(id);

export function toast(text, bad = false) {
  const note = document.createElement("div");
  note.className = bad ? "toast bad" : "toast";
  note.textContent = text;
  $("toasts").append(note);
  setTimeout(() => note.remove(), bad ? 8000 : 3500);
}

export function busy(text) { // null when it is over
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

// A card of a list: a name, a word beside it, and an image from the server, fetched when the card is on the screen.
export function fill(card, item, word, picture) {
  card.className = "card";
  card.innerHTML = '<div class="pic"><img alt="" draggable="false"></div><footer><span class="name"></span><span class="tag"></span></footer>';
  card.querySelector(".name").textContent = card.title = card.dataset.name = item.name;
  card.querySelector(".tag").textContent = word;
  card.fetchPicture = () => blob(picture).then(({ data }) => {
    const image = card.querySelector("img");
    image.onload = () => { image.classList.add("in"); URL.revokeObjectURL(image.src); };
    image.src = URL.createObjectURL(data);
  }, () => {});
  seen.observe(card);
}

const seen = new IntersectionObserver((entries) => entries.forEach(({ isIntersecting, target }) => {
  if (!isIntersecting) return;
  seen.unobserve(target);
  target.fetchPicture();
}), { rootMargin: "300px" });

// Dark or light: as the system says, until it is switched here.
const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => { document.documentElement.dataset.theme = localStorage.getItem("theme") || (dark.matches ? "dark" : "light"); };
dark.addEventListener("change", paint);
paint();

export function theme() {
  localStorage.setItem("theme", document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  paint();
}

const SHOWN = { " ": "Space", ArrowLeft: "←", ArrowRight: "→", Escape: "Esc", Delete: "Del" };
const shown = (key) => SHOWN[key] || (key.length === 1 ? key.toUpperCase() : key.replace(/ (\w)$/, (_, letter) => ` ${letter.toUpperCase()}`));

// groups: title -> key -> [what it does, work]; without work a key is only listed, without a text it is only done.
// digit(number) takes 1 to 9.
export function keys(groups, digit) {
  $("keylist").replaceChildren(...Object.entries(groups).map(([title, table]) => {
    const part = document.createElement("section"), head = document.createElement("h3");
    head.textContent = title;
    part.append(head, ...Object.entries(table).filter(([, [text]]) => text).map(([key, [text]]) => {
      const line = document.createElement("div"), cap = document.createElement("kbd");
      cap.textContent = shown(key);
      line.append(text, cap);
      return line;
    }));
    return part;
  }));
  const table = Object.assign({}, ...Object.values(groups));
  addEventListener("keydown", (event) => {
    const target = event.target, typed = target.tagName === "INPUT" && !["range", "checkbox"].includes(target.type);
    if (typed || target.tagName === "SELECT" || document.querySelector("dialog[open]") || event.altKey) return;
    const control = event.ctrlKey || event.metaKey;
    if (!control && /^[1-9]$/.test(event.key)) { digit(Number(event.key)); return; }
    const plain = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const name = `${control ? "Ctrl " : ""}${event.shiftKey && /^[a-z]$/.test(plain) ? "Shift " : ""}${plain}`;
    const work = table[name]?.[1];
    if (!work || name === " " && ["BUTTON", "SUMMARY"].includes(target.tagName) || target.type === "range" && name.startsWith("Arrow")) return;
    event.preventDefault();
    work();
  });
}
