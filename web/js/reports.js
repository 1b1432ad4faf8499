// What a node of ours says in words after a run, below its inputs.
const SAYING = ["KeepPixels", "ComparisonSheet", "EditMetrics"].map((n) => `StyleDiffusion${n}`)
const LINE = 14
const PADDING = 4
const NAME = "report"
const STYLE = `font: 10px/${LINE}px monospace; padding: ${PADDING}px 6px; white-space: pre-wrap;
  overflow: hidden auto; box-sizing: border-box; user-select: text; overflow-wrap: anywhere;
  color: var(--input-text, #ddd);`

let made = 0

// No input, and of a type of its own, as the words panel is.
const addReport = (node) => {
  const element = document.createElement("div")
  element.style.cssText = STYLE
  const widget = node.addDOMWidget(NAME, `${NAME}_${made++}`, element, {
    serialize: false,
    margin: 0,
    getValue: () => element.textContent,
    setValue: () => {},
  })
  widget.serialize = false
  const height = () => LINE * element.textContent.split("\n").length + 2 * PADDING
  widget.computeSize = (width) => [width, height()]
  widget.computeLayoutSize = undefined
  return widget
}

export const showReport = (node, output) => {
  const text = output?.text?.join("\n")
  if (!text || !SAYING.includes(node.comfyClass)) return
  const widget = node.widgets?.find((other) => other.name === NAME) ?? addReport(node)
  widget.element.textContent = text
  const [width, height] = node.computeSize()
  if (height > node.size[1]) node.setSize([Math.max(width, node.size[0]), height])
  node.setDirtyCanvas(true, true)
}
