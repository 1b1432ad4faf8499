// What is wrong in targets and lists, as far as no tokenizer is needed. No host in here.
import {
  TAUS, blendPlacesOf, isFactor, isWindow, pairsOf, partCount, partsOf, phrasesOf, placesOf,
} from "./notation.js"
import { fold } from "./words.js"

// [line or null for all, text's key, values] of each mistake in a list of blend or subtract words.
const inWords = (name, groups, source) => groups.flatMap(([line, part, prompts]) => {
  const all = [source, ...prompts]
  return phrasesOf(part).flatMap((phrase) => {
    if (all.some((words) => placesOf(phrase, words).length)) return []
    const lacking = phrase.split(" ").filter((w) => !all.some((p) => blendPlacesOf(w, p).length))
    return lacking.map((word) => [line, "nowhere", { name, word }])
  })
})

// The same of "word: value" pairs, all of whose words must be in one of the targets.
const inPairs = (name, groups, isValue, wrongValue) => groups.flatMap(([line, part, prompts]) => {
  const seen = new Set()
  return pairsOf(part).flatMap(([word, value, item]) => {
    if (word === null) return [[line, "form", { name, item }]]
    const twice = seen.has(fold(word))
    seen.add(fold(word))
    if (twice) return [[line, "twice", { name, word }]]
    if (!isValue(value)) return [[line, wrongValue, { name, word, value }]]
    if (name === "windows" && TAUS.includes(fold(word))) return []
    const found = prompts.some((words) => placesOf(word, words).length)
    return found ? [] : [[line, "not_in_targets", { name, word }]]
  })
})

const CHECKS = {
  blend_words: inWords,
  subtract_words: inWords,
  emphasis: (name, groups) => inPairs(name, groups, isFactor, "factor"),
  windows: (name, groups) => inPairs(name, groups, isWindow, "window"),
}
export const LISTED = Object.keys(CHECKS)

// Mistakes in one list: [line, key, values]; a list for all lines that is wrong belongs to none,
// unless there is only one line.
export const mistakesIn = (name, text, source, targets) => {
  const count = targets.length
  const whole = name === "windows" ? text.replaceAll("\n", ",") : text
  const found = partsOf(whole, count)
  if (!found) return [[null, "parts", { name, parts: partCount(whole), lines: count }]]
  const groups = found.each
    ? found.parts.map((part, i) => [i, part, [targets[i]]])
    : [[count === 1 ? 0 : null, found.parts[0], targets]]
  return CHECKS[name](name, groups, source)
}

// Lists that say nothing without another one, where no painted mask stands in for it.
export const mistakesBetween = ({ blend_words, subtract_words }, isMasked) =>
  subtract_words?.trim() && blend_words?.trim() === "" && !isMasked
    ? [[null, "alone", { name: "subtract_words" }]] : []

// Mistakes in the targets themselves, by what is written: [line, key, values], the number of an
// empty line counted as the host's message counts.
export const mistakesInTargets = (text) => {
  const lines = text.trim().split("\n").map((line) => line.trim())
  if (!text.trim()) return [[null, "empty", {}]]
  const empty = lines.indexOf("")
  return empty < 0 ? [] : [[null, "empty_line", { line: empty + 1 }]]
}

// For each line the number of an earlier one that says the same, or null.
export const repeats = (texts) => texts.map((text, i) => {
  const first = texts.indexOf(text)
  return first < i ? first + 1 : null
})
