// A word put on or taken off a list with a click, for one line of the targets. No host in here.
import { blendPlacesOf, pairsOf, partsOf, phrasesOf, piecesOf, placesOf } from "./notation.js"

const LOUDER = "1.5"

// How each list is read and written: its items as written, the phrase of an item, where it stands.
const LISTS = {
  blend_words: { items: phrasesOf, phrase: (item) => item, places: blendPlacesOf, made: (p) => p },
  emphasis: {
    items: (text) => pairsOf(text).map(([, , item]) => item),
    phrase: (item) => pairsOf(item)[0]?.[0] ?? "",
    places: placesOf,
    made: (piece) => `${piece}: ${LOUDER}`,
  },
}
export const PICKED = Object.keys(LISTS)

// One list for each line, as many as there are lines.
const listsOf = (name, text, count) => {
  const found = partsOf(text, count)
  const parts = found?.parts ?? text.split(/[;\uff1b\n]/)
  return Array.from({ length: count }, (_, i) => LISTS[name].items(parts[i] ?? ""))
}

const written = (lists) => {
  const texts = lists.map((items) => items.join(", "))
  return texts.every((text) => text === texts[0]) ? texts[0] : texts.join("; ").trim()
}

// For each word of a prompt the items of a line's list, as written, that speak of it.
export const marksOf = (name, text, count, line, words) => {
  const marks = words.map(() => [])
  for (const item of listsOf(name, text, count)[line]) {
    new Set(LISTS[name].places(LISTS[name].phrase(item), words)).forEach((i) => marks[i].push(item))
  }
  return marks
}

// The list after a click on one of a prompt's words, in a line of so many.
export const toggled = (name, text, count, line, words, i) => {
  const lists = listsOf(name, text, count)
  const there = marksOf(name, text, count, line, words)[i]
  lists[line] = there.length
    ? lists[line].filter((item) => !there.includes(item))
    : [...lists[line], ...piecesOf(words, i).map(LISTS[name].made)]
  return written(lists)
}

// What an item says of how loud a word is.
export const factorOf = (item) => pairsOf(item)[0]?.[1] ?? ""
