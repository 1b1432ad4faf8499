// Under the targets of P2Plus Controller: which words differ from the source prompt, line by line.
import { app } from "../../../scripts/app.js"
import { bare, targetsOf, wordsOf } from "./words.js"

const NODE = "StyleDiffusionP2PlusController"
const OURS = /^StyleDiffusion/
const ROW = 16
const PADDING = 2
const MOST_ROWS = 6
const MARGIN = 10
const CONTEXT = 2
const WATCHED = ["targets", "mode", "prompt"]
const PLAIN_TEXT = ["PrimitiveString", "PrimitiveStringMultiline", "PrimitiveNode"]
const WORD = "border-radius: 2px; padding: 0 2px;"
const STYLES = {
  panel: `overflow: hidden auto; padding: ${PADDING}px 4px; box-sizing: border-box;
    max-height: ${MOST_ROWS * ROW + 2 * PADDING}px; font: 10px/${ROW}px monospace;
    color: var(--input-text, #ddd); background: var(--comfy-input-bg, #222);`,
  row: `height: ${ROW}px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis;`,
  ins: `${WORD} text-decoration: none; background: rgb(60 160 90 / 45%);`,
  del: `${WORD} opacity: .75; background: rgb(210 70 70 / 30%);`,
  small: "float: right; margin-left: 6px; font-size: 9px; opacity: .75;",
  wrong: "float: right; margin-left: 6px; font-size: 9px; color: #e5534b;",
}

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

const element = (name, text, style = name) => {
  const made = document.createElement(name)
  made.textContent = text
  made.style.cssText = STYLES[style]
  return made
}

const row = (source, line, mode) => {
  const { parts, wrong, label } = compared(source, wordsOf(line), mode)
  const made = element("div", "", "row")
  made.title = line
  const note = element("small", label, wrong ? "wrong" : "small")
  note.classList.toggle("wrong", wrong)
  made.append(note)
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
  panel.height = rows.length ? Math.min(rows.length, MOST_ROWS) * ROW + 2 * MARGIN : 0
  panel.element.style.display = rows.length ? "" : "none"
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

const chain = (owner, name, more) => {
  const before = owner[name]
  owner[name] = function (...args) {
    const answer = before?.apply(this, args)
    more(...args)
    return answer
  }
}

let made = 0

// The panel is no input: neither a saved graph nor a prompt has a value of it. Its type is new for
// each node: after an undo Nodes 2.0 keeps what it drew for a widget of the same name and type.
const addPanel = (node) => {
  const panel = { element: element("div", "", "panel"), height: 0, state: "" }
  panel.element.className = "stylediffusion-words"
  panel.element.style.display = "none"
  const widget = node.addDOMWidget("changed_words", `changed_words_${made++}`, panel.element, {
    serialize: false,
    margin: MARGIN,
    getValue: () => "",
    setValue: () => {},
  })
  widget.serialize = false
  // A fixed height on the canvas, and in Nodes 2.0 a row that takes no share of what is left over.
  widget.computeSize = (width) => [width, panel.height]
  widget.computeLayoutSize = undefined
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

const isWatched = (node, widget) => PLAIN_TEXT.includes(node.comfyClass) ||
  (OURS.test(node.comfyClass) && WATCHED.includes(widget.name))

app.registerExtension({
  name: "stylediffusion.changed_words",
  setup() {
    app.api.addEventListener("graphChanged", refreshAll)
  },
  nodeCreated(node) {
    if (node.comfyClass === NODE) addPanel(node)
    for (const widget of node.widgets ?? []) {
      if (isWatched(node, widget)) chain(widget, "callback", () => refreshAll())
    }
  },
  afterConfigureGraph: refreshAll,
})
