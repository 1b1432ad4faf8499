// What a node of ours says in words after a run, below its inputs.
const SAYING = ["KeepPixels", "ComparisonSheet", "EditMetrics", "SaveInversion"].map(
  (name) => `StyleDiffusion${name}`)
const LINE = 14
const PADDING = 4
const NAME = "report"
const STYLE = `font: 10px/${LINE}px monospace; padding: ${PADDING}px 6px; white-space: pre-wrap;
  overflow: hidden auto; box-sizing: border-box; user-select: text; overflow-wrap: anywhere;
  color: var(--input-text, #ddd);`

let made = 0

const fit = (node) => {
  const [width, height] = node.computeSize()
  if (height > node.size[1]) node.setSize([Math.max(width, node.size[0]), height])
  node.setDirtyCanvas(true, true)
}

// No input, and of a type of its own, as the words panel is. A line that is too long for the node
// goes on in the next; a report that is not shown has no height to be measured.
const addReport = (node) => {
  const element = document.createElement("div")
  const content = document.createElement("div")
  element.style.cssText = STYLE
  element.append(content)
  const widget = node.addDOMWidget(NAME, `${NAME}_${made++}`, element, {
    serialize: false,
    margin: 0,
    getValue: () => element.textContent,
    setValue: () => {},
  })
  widget.serialize = false
  const height = () => content.offsetHeight || LINE * content.textContent.split("\n").length
  widget.computeSize = (width) => [width, height() + 2 * PADDING]
  widget.computeLayoutSize = undefined
  new ResizeObserver(() => fit(node)).observe(content)
  return widget
}

export const showReport = (node, output) => {
  const text = output?.text?.join("\n")
  if (!text || !SAYING.includes(node.comfyClass)) return
  const widget = node.widgets?.find((other) => other.name === NAME) ?? addReport(node)
  widget.element.firstChild.textContent = text
  fit(node)
}
