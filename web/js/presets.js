// A preset for the four taus of P2Plus Controller, above their sliders.
import { app } from "../../../scripts/app.js"
import { TAUS } from "./notation.js"
import { widgetOf, write } from "./reading.js"
import { say } from "./texts.js"

const NAME = "tau_preset"
// tau_v, tau_c, tau_s, tau_u: the node's defaults, and what came nearest the truth for each kind.
const PRESETS = {
  defaults: [0.5, 0.6, 0.6, 0],
  colour: [0.8, 0.6, 0.8, 0],
  object: [0.5, 0.3, 0.3, 0],
  place: [0.5, 0.3, 0.6, 0],
  style: [0.2, 0.6, 0.8, 0],
}

const labelled = () => Object.entries(PRESETS).map(([key, taus]) => [say(`preset_${key}`), taus])

const slidersOf = (node) => TAUS.map((tau) => widgetOf(node, tau))

// The preset that the sliders stand at.
export const showPreset = (node) => {
  const widget = widgetOf(node, NAME)
  const sliders = slidersOf(node)
  const isAt = ([, taus]) => sliders.every((slider, i) => Math.abs(slider.value - taus[i]) < 1e-6)
  const label = labelled().find(isAt)?.[0] ?? say("preset_own")
  if (widget && widget.value !== label) widget.value = label
}

// No input: neither a saved graph nor a prompt has a value of it.
export const addPreset = (node) => {
  const choose = (label) => {
    const taus = labelled().find(([own]) => own === label)?.[1]
    if (taus) write(app.canvas, slidersOf(node).map((slider, i) => [slider, taus[i]]))
    showPreset(node)
  }
  const values = [...labelled().map(([label]) => label), say("preset_own")]
  const widget = node.addWidget("combo", NAME, values[0], choose, { values, serialize: false })
  widget.label = say("preset")
  widget.tooltip = say("preset_tooltip")
  widget.serialize = false
  node.widgets.splice(node.widgets.indexOf(widget), 1)
  node.widgets.splice(node.widgets.indexOf(widgetOf(node, TAUS[0])), 0, widget)
  showPreset(node)
}
