// Under the targets of P2Plus Controller: which words differ from the source prompt, line by line.
import { app } from "../../../scripts/app.js"
import { bare, targetsOf, wordsOf } from "./words.js"

const NODE = "StyleDiffusionP2PlusController"
const ROW = 16
const MOST_ROWS = 6
const MARGIN = 10
const CONTEXT = 2
const PLAIN_TEXT = ["PrimitiveString", "PrimitiveStringMultiline", "PrimitiveNode"]
const STYLE = `
.stylediffusion-words { overflow: hidden auto; padding: 2px 4px; box-sizing: border-box;
  font: 10px/${ROW}px monospace; color: var(--input-text, #ddd);
  background: var(--comfy-input-bg, #222); }
.stylediffusion-words div { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.stylediffusion-words ins { text-decoration: none; border-radius: 2px; padding: 0 2px;
  background: rgb(60 160 90 / 45%); }
.stylediffusion-words del { opacity: .75; border-radius: 2px; padding: 0 2px;
  background: rgb(210 70 70 / 30%); }
.stylediffusion-words small { float: right; margin-left: 6px; font-size: 9px; opacity: .75; }
.stylediffusion-words small.wrong { color: #e5534b; opacity: 1; }`

// [kind, word] in reading order: each word beside the one in its place.
const replaced = (source, target) => target.flatMap((word, i) =>
  bare(word) === bare(source[i]) ? [["same", word]] : [["del", source[i]], ["ins", word]])

// The same by the longest run of words that both have.
const refined = (source, target) => {
  const longest = Array.from({ length: source.length + 1 }, () => Array(target.length + 1).fill(0))
  for (let i = source.length - 1; i >= 0; i--) {
    for (let j = target.length - 1; j >= 0; j--) {
      longest[i][j] = bare(source[i]) === bare(target[j])
        ? longest[i + 1][j + 1] + 1
        : Math.max(longest[i + 1][j], longest[i][j + 1])
    }
  }
  const parts = []
  let [i, j] = [0, 0]
  while (i < source.length || j < target.length) {
    const both = i < source.length && j < target.length
    if (both && bare(source[i]) === bare(target[j])) {
      parts.push(["same", target[j++]])
      i++
    } else if (j === target.length || (both && longest[i + 1][j] >= longest[i][j + 1])) {
      parts.push(["del", source[i++]])
    } else {
      parts.push(["ins", target[j++]])
    }
  }
  return parts
}

// Words far from every change become one ellipsis.
const shortened = (parts) => {
  const changes = parts.flatMap(([kind], i) => (kind === "same" ? [] : [i]))
  const isNear = (i) => changes.some((change) => Math.abs(change - i) <= CONTEXT)
  return parts
    .map((part, i) => (isNear(i) ? part : ["same", "…"]))
    .filter(([, word], i, all) => word !== "…" || i === 0 || all[i - 1][1] !== "…")
}

const compared = (source, target, mode) => {
  const equal = source.length === target.length
  const replaces = equal && mode !== "refine"
  const parts = replaces ? replaced(source, target) : refined(source, target)
  const wrong = mode === "replace" && !equal
  const counts = `${target.length} words, source ${source.length}`
  return { parts, wrong, label: wrong ? counts : replaces ? "replace" : "refine" }
}

const element = (name, text, className = "") =>
  Object.assign(document.createElement(name), { textContent: text, className })

const row = (source, line, mode) => {
  const { parts, wrong, label } = compared(source, wordsOf(line), mode)
  const made = element("div", "")
  made.title = line
  made.append(element("small", label, wrong ? "wrong" : ""))
  if (parts.every(([kind]) => kind === "same")) made.append("no change")
  else shortened(parts).forEach(([kind, word]) => {
    made.append(kind === "same" ? word : element(kind, word), " ")
  })
  return made
}

const valueOf = (node, name) => node.widgets?.find((widget) => widget.name === name)?.value

const feeding = (node, slot) => {
  let origin = node.getInputNode(slot)
  while (origin?.type === "Reroute") origin = origin.getInputNode(0)
  return origin
}

// What is written in an input's own box, or in the plain text node linked to it; null where the
// graph does not tell.
const textOf = (node, name) => {
  const slot = node.inputs?.findIndex((input) => input.name === name) ?? -1
  if (slot < 0 || node.inputs[slot].link == null) return valueOf(node, name) ?? null
  const origin = feeding(node, slot)
  return PLAIN_TEXT.includes(origin?.type) ? origin.widgets?.[0]?.value ?? null : null
}

// The prompt of the node that made the trajectory.
const sourcePrompt = (node) => {
  const slot = node.inputs?.findIndex((input) => input.name === "trajectory") ?? -1
  const origin = slot < 0 ? null : feeding(node, slot)
  return origin ? textOf(origin, "prompt") : null
}

const panels = new WeakMap()

const refresh = (node, panel) => {
  if (!node.graph) return // a copy on the clipboard, or on its way into a subgraph
  const prompt = sourcePrompt(node)
  const [targets, mode] = ["targets", "mode"].map((name) => textOf(node, name))
  const state = JSON.stringify([prompt, targets, mode])
  if (state === panel.state) return
  panel.state = state
  const source = wordsOf(prompt ?? "")
  const lines = mode && source.length ? targetsOf(targets ?? "", prompt) : []
  const rows = lines.map((line) => row(source, line, mode))
  panel.element.replaceChildren(...rows)
  panel.height = rows.length ? Math.min(rows.length, MOST_ROWS) * ROW + 4 + 2 * MARGIN : 0
  panel.element.style.visibility = rows.length ? "" : "hidden"
  node.setDirtyCanvas(true, true)
}

const refreshAll = () => {
  const root = app.graph?.rootGraph ?? app.graph
  for (const graph of [root, ...(root?.subgraphs?.values() ?? [])]) {
    for (const node of graph?.nodes ?? []) {
      if (panels.has(node)) refresh(node, panels.get(node))
    }
  }
}

const chain = (node, name, more) => {
  const before = node[name]
  node[name] = function (...args) {
    const answer = before?.apply(this, args)
    more(...args)
    return answer
  }
}

// The panel is no input: neither a saved graph nor a prompt has a value of it.
const addPanel = (node) => {
  const panel = { element: element("div", "", "stylediffusion-words"), height: 0, state: "" }
  const widget = node.addDOMWidget("changed_words", "changed_words", panel.element, {
    serialize: false,
    margin: MARGIN,
    getValue: () => "",
    setValue: () => {},
    getMinHeight: () => panel.height,
    getMaxHeight: () => panel.height,
  })
  widget.serialize = false
  node.widgets.splice(node.widgets.indexOf(widget), 1)
  const place = node.widgets.findIndex((other) => other.name === "targets") + 1
  node.widgets.splice(place, 0, widget)
  // The host leaves an empty place where a widget has no value, and would read it as the next one's.
  chain(node, "onSerialize", (saved) => {
    saved.widgets_values = saved.widgets_values?.filter(() => true)
  })
  chain(node, "onConnectionsChange", () => refresh(node, panel))
  panels.set(node, panel)
}

app.registerExtension({
  name: "StyleDiffusion.ChangedWords",
  setup() {
    document.head.append(element("style", STYLE))
    document.addEventListener("input", refreshAll)
    app.api.addEventListener("graphChanged", refreshAll)
  },
  nodeCreated(node) {
    if (node.comfyClass === NODE) addPanel(node)
  },
  afterConfigureGraph: refreshAll,
})
