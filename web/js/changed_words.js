// On P2Plus Controller: which words each target changes, what is wrong, words picked with a click,
// and a preset for the taus.
import { app } from "../../../scripts/app.js"
import { heatOf, pickWord, readTexts, shownBy } from "./controller.js"
import { LISTED } from "./mistakes.js"
import { TAUS } from "./notation.js"
import { MARGIN, Panel } from "./panel.js"
import { PICKED } from "./picking.js"
import { addPreset, showPreset } from "./presets.js"
import { CAPTIONED, everyNode, isPlainText } from "./reading.js"
import { showReport } from "./reports.js"
import { loadTexts } from "./texts.js"

const NODE = "StyleDiffusionP2PlusController"
const OURS = /^StyleDiffusion/
const WATCHED = ["targets", "mode", "prompt", ...LISTED, ...TAUS, ...CAPTIONED]

const panels = new WeakMap()
const outputs = new WeakMap()

const refresh = (node) => {
  if (!node.graph || !panels.has(node)) return // a copy on the clipboard, or on its way elsewhere
  showPreset(node)
  const panel = panels.get(node)
  const texts = readTexts(node)
  const state = JSON.stringify(texts)
  if (state === panel.state) return
  panel.state = state
  panel.draw(shownBy(node, texts))
  node.setDirtyCanvas(true, true)
}

const refreshAll = () => everyNode(app.graph).forEach(refresh)

// What a node gave when it last ran; inside a subgraph what it gave since the page was opened.
const outputOf = (node) => node && (outputs.get(node) ??
  (node.graph === app.graph ? app.nodeOutputs[node.id] : undefined))

// After an undo, or in another tab, the nodes are new ones, and what they gave is still known.
const showReports = (given = app.nodeOutputs) => {
  for (const node of app.graph?.nodes ?? []) showReport(node, given[node.id])
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
  const panel = new Panel((key, isOther) => {
    const name = isOther ? PICKED.find((other) => other !== panel.pick) : panel.pick
    pickWord(node, readTexts(node), key, name)
  }, (key) => heatOf(node, readTexts(node), key, outputOf), () => node.setDirtyCanvas(true, true))
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
  panels.set(node, panel)
}

const extend = (node) => {
  addPreset(node)
  addPanel(node)
  // Where a widget has no value the host leaves a gap, and would read it as the next one's.
  chain(node, "onSerialize", (saved) => {
    saved.widgets_values = saved.widgets_values?.filter(() => true)
  })
  chain(node, "onConnectionsChange", () => refresh(node))
}

const isWatched = (node, widget) =>
  isPlainText(node) || (OURS.test(node.comfyClass) && WATCHED.includes(widget.name))

app.registerExtension({
  name: "stylediffusion.changed_words",
  async setup() {
    app.api.addEventListener("graphChanged", refreshAll)
    await loadTexts()
  },
  nodeCreated(node) {
    if (node.comfyClass === NODE) extend(node)
    chain(node, "onExecuted", (output) => {
      outputs.set(node, output)
      showReport(node, output)
    })
    for (const widget of node.widgets ?? []) {
      if (isWatched(node, widget)) chain(widget, "callback", () => refreshAll())
    }
  },
  afterConfigureGraph() {
    refreshAll()
    showReports()
  },
  onNodeOutputsUpdated: showReports,
})
