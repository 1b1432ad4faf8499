// What a person writes beside the prompts, as stylediffusion/prompts/notation.py and words.py read
// it: lists of words, "tiger: 1.5", windows. No host in here.
import { OUTSIDE, bare, fold } from "./words.js"

const OF_WORD = /[\p{L}\p{N}\p{M}\p{So}]/u
const UNSPACED = new RegExp("[\u0e00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\ua4cf" +
  "\uac00-\ud7ff\uf900-\ufaff\u{20000}-\u{3ffff}]", "u")
const FREE = new RegExp(`${UNSPACED.source}|\\p{So}`, "u")
const COMMA = /[,\uff0c\u3001]/
const DECIMAL = /(?<=\d),(?=\d+\s*(?:[-\u2013)]|[,\uff0c\n]|$))/g
const NUMBER = /^[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?$/i
const WINDOW = /^(?:(\d*\.?\d+)\s*-\s*)?(\d*\.?\d+)$/
export const TAUS = ["tau_v", "tau_c", "tau_s", "tau_u"]

// Whether two neighbours belong to one word.
const areJoined = (left, right) => {
  if (!left || !right || !OF_WORD.test(left) || !OF_WORD.test(right)) return false
  return /\p{M}/u.test(right) || !(FREE.test(left) || FREE.test(right))
}

const escaped = (text) => text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&")

// Spans of a folded text in which a phrase stands, none of which begins or ends inside a word.
const spans = (text, wanted) => {
  const pattern = new RegExp(wanted.split(/[\s_-]+/).map(escaped).join('[\\s_"-]+'), "gu")
  const found = []
  for (let match; (match = pattern.exec(text));) {
    const [start, end] = [match.index, match.index + match[0].length]
    const [first, last] = [[...match[0]][0], [...match[0]].at(-1)]
    const [before, after] = [[...text.slice(0, start)].at(-1), [...text.slice(end, end + 2)][0]]
    if (!areJoined(before, first) && !areJoined(last, after)) found.push([start, end])
    pattern.lastIndex = start + first.length
  }
  return found
}

// Which of a prompt's words a word or phrase stands in, by number.
export const placesOf = (phrase, words) => {
  const every = [...words.keys()]
  if (!OF_WORD.test(fold(phrase))) return every.filter((i) => bare(words[i]) === bare(phrase))
  const wanted = bare(phrase.replace(/\\([()])/g, "$1"))
  if (!OF_WORD.test(wanted)) return []
  const folded = words.map((word) => fold(word).replaceAll(" ", "_"))
  const found = spans(folded.join(" "), wanted)
  let place = 0
  return every.filter((i) => {
    const own = place
    place += folded[i].length + 1
    return found.some(([start, end]) => start < place - 1 && end > own)
  })
}

// The same for blend words: where the phrase as a whole is nowhere, each of its words for itself.
export const blendPlacesOf = (phrase, words) => {
  const whole = placesOf(phrase, words)
  return whole.length ? whole : phrase.split(/\s+/).flatMap((word) => placesOf(word, words))
}

// The part that speaks of each of `count` lines; null for another number of parts.
export const partsOf = (text, count) => {
  const parts = text.split(/[;\uff1b\n]/).map((part) => part.trim())
  if (count > 1 && parts.length === count) return { each: true, parts }
  if (parts.filter(Boolean).length > 1) return null
  return { each: false, parts: Array(count).fill(parts.join("")) }
}

export const partCount = (text) => text.split(/[;\uff1b\n]/).length

// What stands between commas: words, or several words that belong together.
export const phrasesOf = (text) =>
  text.split(COMMA).map((part) => part.split(/\s+/).filter(Boolean).join(" ")).filter(Boolean)

// [name, value, as written] of each "name: value"; name and value are null where it is none.
export const pairsOf = (text) => text.replace(DECIMAL, ".").split(/[,\uff0c\u3001\n]/)
  .map((item) => item.trim()).filter(Boolean).map((item) => {
    const inside = item.startsWith("(") && item.endsWith(")") ? item.slice(1, -1) : item
    const parts = inside.match(/^([^]*)[:\uff1a=]([^]*)$/)
    const [name, value] = parts ? [parts[1].trim(), parts[2].trim()] : ["", ""]
    return name && value ? [name, value, item] : [null, null, item]
  })

export const isFactor = (value) =>
  NUMBER.test(fold(value).trim()) && Math.abs(Number(fold(value))) <= 10

export const isWindow = (value) => {
  const found = fold(value).trim().match(WINDOW)
  return !!found && Number(found[1] ?? 0) <= Number(found[2]) && Number(found[2]) <= 1
}

// What can be asked for with a click on the i-th of a prompt's words: itself without the signs
// around it, in the pieces that a list would be split into; none where it is all signs, or of a
// choice such as {dark red|blue}, which the page makes only when the graph is run.
export const piecesOf = (words, i) => {
  const open = [...words.slice(0, i).join(" ").replace(/\\./g, "")]
    .reduce((depth, char) => Math.max(0, depth + (char === "{") - (char === "}")), 0)
  if (open || /[{}|]/.test(words[i])) return []
  return words[i].replace(OUTSIDE, "").split(/[,\uff0c\u3001;\uff1b:\uff1a=]+/)
    .map((piece) => piece.trim()).filter((piece) => OF_WORD.test(piece))
}
