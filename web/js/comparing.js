// How a target differs from the source prompt, word by word. No host in here.
import { bare } from "./words.js"

const CONTEXT = 2
const SHORT = 16

// [kind, word, its number in its own prompt] in reading order: each beside the one in its place.
const replaced = (source, target) => target.flatMap((word, i) => bare(word) === bare(source[i])
  ? [["same", word, i]] : [["del", source[i], i], ["ins", word, i]])

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
      parts.push(["same", target[j], j++])
      i++
    } else if (j === target.length || (both && longest[i + 1][j] >= longest[i][j + 1])) {
      parts.push(["del", source[i], i++])
    } else {
      parts.push(["ins", target[j], j++])
    }
  }
  return parts
}

// The words of a long line that are far from every change become one ellipsis.
export const shortened = (parts) => {
  if (parts.length <= SHORT) return parts
  const changes = parts.flatMap(([kind], i) => (kind === "same" ? [] : [i]))
  const isNear = (i) => changes.some((change) => Math.abs(change - i) <= CONTEXT)
  return parts
    .map((part, i) => (isNear(i) ? part : ["more", "…", 0]))
    .filter(([kind], i, all) => kind !== "more" || i === 0 || all[i - 1][0] !== "more")
}

// Whether the edit changes nothing, or all but nothing: case and punctuation. Weights count.
const isSame = (source, target) => {
  const [ours, theirs] = [source, target].map((text) => text.split(/\s+/).filter(Boolean))
  const equal = (by) => ours.length === theirs.length &&
    ours.every((word, i) => by(word) === by(theirs[i]))
  return equal((word) => word) || (!(source + target).includes("(") && equal(bare))
}

// { parts, replaces, fits, same } of a target: texts and the words in them.
export const compared = (source, target, mode) => {
  const fits = source.words.length === target.words.length
  const replaces = fits && mode !== "refine"
  return {
    parts: (replaces ? replaced : refined)(source.words, target.words),
    replaces,
    fits: fits || mode !== "replace",
    same: isSame(source.text, target.text),
  }
}
