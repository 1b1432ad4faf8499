// What the graph says: which box holds an input's text, and the prompt a trajectory was made with.
const PLAIN_TEXT = ["PrimitiveString", "PrimitiveStringMultiline", "PrimitiveNode"]
const BOUNDARY = -10 // the node from which links come into a subgraph

export const isPlainText = (node) => PLAIN_TEXT.includes(node.comfyClass ?? node.type)

export const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name)

export const everyNode = (graph) => {
  const root = graph?.rootGraph ?? graph
  return [root, ...(root?.subgraphs?.values() ?? [])].flatMap((each) => each?.nodes ?? [])
}

const slotOf = (node, name) => node.inputs?.findIndex((input) => input.name === name) ?? -1

// Where a linked input comes from, past reroutes and in and out of subgraphs: { node, name }, with
// the name of the input if it is one of a subgraph that nothing is linked to; null if unknown.
const originOf = (node, slot) => {
  const link = slot < 0 || node.inputs[slot].link == null ? null : node.getInputLink(slot)
  if (!link) return null
  if (Number(link.origin_id) === BOUNDARY) {
    const hosts = everyNode(node.graph).filter((other) => other.subgraph === node.graph)
    const name = node.graph.inputs?.[link.origin_slot]?.name
    if (hosts.length !== 1 || !name) return null
    const outer = slotOf(hosts[0], name)
    const isLinked = outer >= 0 && hosts[0].inputs[outer].link != null
    return isLinked ? originOf(hosts[0], outer) : { node: hosts[0], name }
  }
  const from = node.graph.getNodeById(link.origin_id)
  if (from?.type === "Reroute") return originOf(from, 0)
  if (from?.subgraph) return { node: from.resolveSubgraphOutputLink(link.origin_slot)?.outputNode }
  return { node: from }
}

// The widget that holds an input's text: its own, a subgraph's, or that of the plain text node
// linked to it; undefined where the graph does not tell.
export const boxOf = (node, name) => {
  const slot = slotOf(node, name)
  if (slot < 0 || node.inputs[slot].link == null) return widgetOf(node, name)
  const origin = originOf(node, slot)
  if (!origin?.node) return undefined
  if (origin.name) return widgetOf(origin.node, origin.name)
  return isPlainText(origin.node) ? origin.node.widgets?.[0] : undefined
}

// The widgets of Demo Scene that its caption is made of, and the caption, as demo/scenes.py has it.
export const CAPTIONED = ["style", "colour", "object", "place"]
const captionOf = (scene) => {
  const [style, colour, object, place] = CAPTIONED.map((name) => widgetOf(scene, name)?.value)
  return `a ${style} of a ${colour} ${object} in the ${place}`.replace(/\ba(?= [aeiou])/g, "an")
}

export const textOf = (node, name) => {
  const box = boxOf(node, name)
  if (box) return box.value ?? null
  const from = originOf(node, slotOf(node, name))?.node
  return from?.comfyClass === "StyleDiffusionDemoScene" ? captionOf(from) : null
}

// The node that made the trajectory; undefined where the graph does not tell.
export const trajectoryOf = (node) => originOf(node, slotOf(node, "trajectory"))?.node

export const isLinked = (node, name) => node.inputs?.[slotOf(node, name)]?.link != null

// That node's prompt.
export const sourcePrompt = (node) => {
  const from = trajectoryOf(node)
  return from ? textOf(from, "prompt") : null
}

// Give widgets new values as a person does: in one step that can be undone.
export const write = (canvas, changes) => {
  canvas.emitBeforeChange()
  for (const [widget, value] of changes) {
    widget.value = value
    widget.callback?.(value)
  }
  canvas.emitAfterChange()
}
