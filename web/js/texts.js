// What the page says, in its language: locales/<language>/main.json, as the host serves it.
import { app } from "../../../scripts/app.js"

const OURS = "stylediffusion"
let texts = {}

export const loadTexts = async () => {
  texts = await app.api.getCustomNodesI18n()
}

// A text with its {names} filled in.
export const say = (key, values = {}) => {
  const language = app.extensionManager.setting.get("Comfy.Locale")
  const text = texts[language]?.[OURS]?.[key] ?? texts.en?.[OURS]?.[key] ?? key
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "")
}
