// Words as people write them, as prompts/words.py and the node read them. No host in here.

const SAME = Object.fromEntries([
  ["'", "\u2018\u2019\u201a\u201b\u2032\u02b9\u02bb\u02bc`"],
  ['"', "\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\u301d\u301e\u301f"],
  ["-", "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2e3a"],
].flatMap(([plain, kinds]) => [...kinds].map((kind) => [kind, plain])))
const CLUSTERS = /[^][\p{M}\uff9e\uff9f\u200d\u1160-\u11ff]*/gu
// What stands around a word.
export const OUTSIDE = /^[^\p{L}\p{N}\p{M}\p{So}]+|[^\p{L}\p{N}\p{M}\p{So}]+$/gu
const SPACE = /[\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/u
const LINES = /\r\n|[\n-\r\x1c-\x1e\x85\u2028\u2029]/u
const MARKER = new RegExp(`^${SPACE.source.replace(/\+$/, "*")}(?:[-*\u2022\u00b7\u2013\u2014]` +
  `${SPACE.source}|\\(?\\p{Nd}+(?:[.)\uff0e\uff09]${SPACE.source}|\u3001\\s*))`, "u")
const NUMBER = /^\s*[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|inf(?:inity)?|nan)\s*$/i

// A text without what people do not mean by a word: case, width, kinds of quotes and dashes.
export const fold = (text) => (text.match(CLUSTERS) ?? []).map((cluster) => {
  const plain = [...cluster].map((char) => SAME[char] ?? char).join("").normalize("NFKC")
  const kept = plain.replace(/[\p{Cf}\ufe00-\ufe0f]/gu, "")
  return [...kept].map((char) => char.toUpperCase().toLowerCase()).join("")
}).join("")

// A word folded, without what surrounds it: what makes two words the same.
export const bare = (word) => fold(word).replace(OUTSIDE, "") || fold(word)

// The parts of a text outside and inside its outermost brackets, as the host reads weights.
const bracketed = (text) => {
  const parts = []
  let [part, depth] = ["", 0]
  for (const char of text) {
    if (char === "(" && depth++ === 0) {
      if (part) parts.push(part)
      part = char
    } else if (char === ")" && --depth === 0) {
      parts.push(part + char)
      part = ""
    } else part += char
  }
  return part ? [...parts, part] : parts
}

const unweighted = (text) => bracketed(text).flatMap((part) => {
  if (part.length < 2 || part[0] !== "(" || part.at(-1) !== ")") return [part]
  const inside = part.slice(1, -1)
  const colon = inside.lastIndexOf(":")
  return unweighted(colon > 0 && NUMBER.test(inside.slice(colon + 1))
    ? inside.slice(0, colon) : inside)
})

// What stands between spaces, without the host's weights; a name belongs to its "embedding:".
export const wordsOf = (text) => {
  const escaped = text.replace(/\\\)/g, "\0\x01").replace(/\\\(/g, "\0\x02")
  return unweighted(escaped).join("").replace(/\0\x01/g, ")").replace(/\0\x02/g, "(")
    .replace(/(^|\s)embedding:\s+(?=\S)/g, "$1embedding:").split(SPACE).filter(Boolean)
}

const isMarked = (line) => MARKER.test(line) && line.replace(MARKER, "") !== ""

// The share of their words that two texts have in common.
const likeness = (text, other) => {
  const [ours, theirs] = [text, other].map((t) => t.split(SPACE).filter(Boolean).map(bare))
  const left = [...theirs]
  const common = ours.filter((word) => {
    const place = left.indexOf(word)
    if (place >= 0) left.splice(place, 1)
    return place >= 0
  })
  return 2 * common.length / Math.max(1, ours.length + theirs.length)
}

const linesOf = (text) => text.split(LINES).map((line) => line.trim()).filter(Boolean)

// The target prompts in a text: a line each, without list markers; or one, as the source is one.
export const targetsOf = (targets, source) => {
  let lines = linesOf(targets)
  if (lines.every(isMarked) && !isMarked(source)) {
    lines = lines.map((line) => line.replace(MARKER, ""))
  }
  const whole = lines.join(" ")
  const isOne = lines.length > 1 && linesOf(source).length > 1 &&
    lines.every((line) => likeness(whole, source) > likeness(line, source))
  return isOne ? [whole] : lines
}
