// The words panel: a row for each target, what is wrong with it, and what a click on a word does.
import { shortened } from "./comparing.js"
import { HEAT_STYLE, Heat } from "./heat.js"
import { say } from "./texts.js"

const ROW = 16
const PADDING = 4
const MOST_ROWS = 10
export const MARGIN = 10
const AROUND = 2 * MARGIN - 4 // the host itself leaves 4 below every widget
const MOST_HEIGHT = MOST_ROWS * ROW + 2 * PADDING

// Beside the panel's own elements, so that the page's head stays as it is.
const STYLE = `
  .stylediffusion-words { overflow: hidden auto; box-sizing: border-box; cursor: default;
    max-height: ${MOST_HEIGHT}px; scrollbar-width: thin; font: 10px/${ROW}px monospace;
    color: var(--input-text, #ddd); background: var(--comfy-input-bg, #222);
    border-radius: 4px; user-select: none; }
  .lg-node-widget .stylediffusion-words { background: var(--component-node-widget-background); }
  .stylediffusion-words .content { padding: ${PADDING}px 6px; }
  .stylediffusion-words .line { overflow-wrap: anywhere; display: flow-root; }
  .stylediffusion-words .line:not(.mistake) { word-spacing: -3px; }
  .stylediffusion-words small { float: right; margin-left: 6px; font-size: 9px; opacity: .75;
    word-spacing: 0; }
  .stylediffusion-words .wrong { color: #b3261e; opacity: 1; }
  .dark-theme .stylediffusion-words .wrong { color: #f0716a; }
  .stylediffusion-words .word { border-radius: 2px; padding: 0 2px; text-decoration: none; }
  .stylediffusion-words ins { background: rgb(60 160 90 / 45%); }
  .stylediffusion-words del { background: rgb(210 70 70 / 30%); }
  .stylediffusion-words [role=button] { cursor: pointer; }
  .stylediffusion-words [role=button]:hover { outline: 1px solid var(--input-text, #ddd); }
  .stylediffusion-words :focus-visible { outline: 2px solid #4a9eff; }
  .stylediffusion-words .blend_words { box-shadow: inset 0 -2px #f0a020; }
  .stylediffusion-words .emphasis { font-weight: bold; }
  .stylediffusion-words .emphasis::after { content: "\\00d7" attr(data-factor); font-size: 8px;
    margin-left: 1px; vertical-align: super; line-height: 0; }
  .stylediffusion-words .bar { margin-top: 2px; white-space: nowrap; overflow: hidden;
    text-overflow: ellipsis; font-size: 9px; }
  .stylediffusion-words .bar > span { opacity: .75; }
  .stylediffusion-words button { all: unset; cursor: pointer; padding: 0 4px; margin-left: 4px;
    border-radius: 2px; opacity: .75; }
  .stylediffusion-words button:focus-visible { outline: 2px solid #4a9eff; }
  .stylediffusion-words button[aria-pressed=true] { opacity: 1;
    background: var(--comfy-menu-secondary-bg, rgb(128 128 128 / 30%)); }
  .stylediffusion-words button[data-pick=blend_words] { box-shadow: inset 0 -2px #f0a020; }
  .stylediffusion-words button[data-pick=emphasis] { font-weight: bold; }
`

const element = (name, text = "", style = "") => {
  const made = document.createElement(name)
  made.textContent = text
  made.className = style
  return made
}

// A word of a line. `mark` says how it is picked: { names, factor, title }, null if it cannot be.
const word = (kind, text, key, mark) => {
  const made = element(kind === "same" ? "span" : kind, text, "word")
  if (!mark) return made
  made.classList.add(...mark.names)
  Object.assign(made.dataset, { key, ...(mark.factor ? { factor: mark.factor } : {}) })
  made.setAttribute("role", "button")
  made.setAttribute("aria-pressed", String(mark.names.length > 0))
  made.title = mark.title
  made.tabIndex = -1
  return made
}

const ellipsis = (line) => {
  const made = element("span", "…", "word")
  made.setAttribute("role", "button")
  made.title = say("more")
  made.dataset.more = line
  made.tabIndex = -1
  return made
}

// { text, parts, label, wrong, mistakes } of a target; markOf(kind, index) of each of its words.
const row = (line, number, isWhole, markOf) => {
  const made = element("div", "", "line")
  made.append(element("small", line.label, line.wrong ? "wrong" : ""))
  for (const [kind, text, i] of isWhole ? line.parts : shortened(line.parts)) {
    const key = `${number} ${kind === "del" ? "source" : "target"} ${i}`
    made.append(kind === "more" ? ellipsis(number) : word(kind, text, key, markOf(kind, i)), " ")
  }
  return [made, ...line.mistakes.map(mistake)]
}

const mistake = (text) => {
  const made = element("div", text, "line mistake wrong")
  made.setAttribute("role", "status")
  return made
}

// picks: [name, label, title] of each list that a click can go to, `pick` the one it goes to.
const bar = (picks, pick) => {
  const made = element("div", "", "bar")
  for (const [name, label, title] of picks) {
    const button = element("button", label)
    button.dataset.pick = name
    button.title = title
    button.setAttribute("aria-pressed", String(name === pick))
    made.append(element("span", say(name === pick ? "click" : "shift_click")), button, " ")
  }
  return made
}

export class Panel {
  // onPick(key, other) for a click on a word, where `other` is true with the shift key held;
  // heatOf(key) is where a word looked, if that is known.
  constructor(onPick, heatOf, onHeight) {
    this.element = element("div", "", "stylediffusion-words")
    this.content = element("div", "", "content")
    this.heat = new Heat()
    this.element.append(element("style", STYLE + HEAT_STYLE), this.content, this.heat.element)
    this.element.style.display = "none"
    this.onPick = onPick
    this.heatOf = heatOf
    this.pick = "blend_words"
    this.whole = new Set()
    this.height = 0
    this.element.addEventListener("click", (event) => this.act(event))
    this.element.addEventListener("keydown", (event) => this.key(event))
    for (const kind of ["pointerover", "focusin"]) {
      this.content.addEventListener(kind, (event) => this.look(event.target))
    }
    for (const kind of ["pointerleave", "focusout"]) {
      this.content.addEventListener(kind, () => this.heat.hide())
    }
    new ResizeObserver(() => this.measure(onHeight)).observe(this.content)
  }

  // shown: { lines, mistakes, markOf(line, kind, index), picks }; nothing at all without lines and
  // mistakes.
  draw(shown) {
    this.shown = shown
    const { lines, mistakes, markOf, picks } = shown
    this.heat.hide()
    const focused = this.content.contains(document.activeElement) ? document.activeElement : null
    const rows = mistakes.map(mistake)
    rows.push(...lines.flatMap((line, i) =>
      row(line, i, this.whole.has(i), (kind, index) => markOf(i, kind, index))))
    if (lines.length && picks.length) rows.push(bar(picks, this.pick))
    const key = focused?.dataset.key
    this.content.replaceChildren(...rows)
    this.element.style.display = rows.length ? "" : "none"
    const height = Math.min(rows.length * ROW + 2 * PADDING, MOST_HEIGHT)
    this.height = rows.length ? height + AROUND : 0
    const words = this.buttons()
    const next = words.find((each) => key && each.dataset.key === key)
    if (words.length) (next ?? words[0]).tabIndex = 0
    next?.focus()
    this.measure()
  }

  // A hidden panel has no height to be measured.
  measure(onHeight) {
    const height = this.content.offsetHeight
    if (!height) return
    const whole = Math.min(height, MOST_HEIGHT) + AROUND
    if (whole === this.height) return
    this.height = whole
    onHeight?.()
  }

  buttons() {
    return [...this.content.querySelectorAll("[role=button]")]
  }

  look(at) {
    const seen = at.dataset.key && this.heatOf(at.dataset.key)
    if (seen) this.heat.show(seen, at, this.element)
    else this.heat.hide()
  }

  act(event) {
    const found = event.target.closest("[data-key], [data-more], [data-pick]")
    if (!found) return
    const { key, more, pick } = found.dataset
    if (key) this.onPick(key, event.shiftKey)
    else if (pick) this.pick = pick
    else this.whole.add(Number(more))
    if (!key) this.draw(this.shown)
  }

  // One stop of the tab key; arrows walk from word to word, Enter and space pick. With Ctrl, Alt or
  // Meta a key is the page's own: Ctrl+Enter runs the graph.
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return
    const words = this.buttons()
    const at = words.indexOf(event.target)
    if (at < 0) return
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
    if (step) {
      const next = words[Math.max(0, Math.min(words.length - 1, at + step))]
      words[at].tabIndex = -1
      next.tabIndex = 0
      next.focus()
    } else if (event.key === "Enter" || event.key === " ") this.act(event)
    else return
    event.preventDefault()
    event.stopPropagation()
  }
}
