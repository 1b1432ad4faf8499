// What the words panel of one P2Plus Controller shows, and what a click in it writes.
import { app } from "../../../scripts/app.js"
import { compared } from "./comparing.js"
import { LISTED, mistakesBetween, mistakesIn, mistakesInTargets, repeats } from "./mistakes.js"
import { piecesOf } from "./notation.js"
import { PICKED, factorOf, marksOf, toggled } from "./picking.js"
import { boxOf, isLinked, sourcePrompt, textOf, trajectoryOf, widgetOf, write } from "./reading.js"
import { say } from "./texts.js"
import { targetsOf, wordsOf } from "./words.js"

// All that the panel depends on, as written.
export const readTexts = (node) => ({
  prompt: sourcePrompt(node),
  targets: textOf(node, "targets"),
  mode: textOf(node, "mode"),
  lists: Object.fromEntries(LISTED.map((name) => [name, textOf(node, name)])),
  isMasked: isLinked(node, "mask"),
})

const labelOf = (node, name) => widgetOf(node, name)?.label ?? name

const told = (node, [, key, values]) =>
  say(key, { ...values, ...(values.name ? { name: labelOf(node, values.name) } : {}) })

const lineOf = (source, text, words, mode, isEmphasised, repeated) => {
  const { parts, replaces, fits, same } = compared(source, { text, words }, mode)
  const nothing = same && !isEmphasised
  const counts = { words: words.length, source: source.words.length }
  const label = !fits ? say("counts", counts) : nothing ? say("same")
    : replaces ? "replace" : "refine"
  const mistakes = repeated === null ? [] : [say("again", { line: repeated })]
  return { parts, label, wrong: !fits || nothing, mistakes }
}

const EMPTY = { lines: [], mistakes: [], markOf: () => null, picks: [] }

// What Panel.draw is given; nothing where the source prompt is not known.
export const shownBy = (node, { prompt, targets, mode, lists, isMasked }) => {
  const source = { text: prompt ?? "", words: wordsOf(prompt ?? "") }
  if (!mode || targets === null || !source.words.length) return EMPTY
  const texts = targetsOf(targets, source.text)
  const words = texts.map(wordsOf)
  const found = Object.entries(lists).filter(([, text]) => text?.trim() && texts.length)
    .flatMap(([name, text]) => mistakesIn(name, text, source.words, words))
  const marks = words.map((own, line) => marksIn(lists, texts.length, line, source.words, own))
  const repeated = repeats(texts)
  const lines = texts.map((text, i) => {
    const isEmphasised = marks[i].ins.emphasis.some((items) => items.length)
    return lineOf(source, text, words[i], mode, isEmphasised, repeated[i])
  })
  for (const mistake of found) lines[mistake[0]]?.mistakes.push(told(node, mistake))
  const general = [...mistakesInTargets(targets), ...found.filter(([line]) => line === null),
    ...mistakesBetween(lists, isMasked)]
  const open = PICKED.filter((name) => boxOf(node, name))
  return {
    lines,
    mistakes: general.map((mistake) => told(node, mistake)),
    markOf: (line, kind, i) =>
      markOf(node, open, marks[line][kind], kind === "del" ? source.words : words[line], i),
    picks: open.map((name) => [name, labelOf(node, name), say(`pick_${name}`)]),
  }
}

// For each kind of word in a line, each list that can speak of it, and each such word: its items.
const marksIn = (lists, count, line, source, target) => {
  const marks = (name, words) => marksOf(name, lists[name] ?? "", count, line, words)
  const own = Object.fromEntries(PICKED.map((name) => [name, marks(name, target)]))
  return { same: own, ins: own, del: { blend_words: marks("blend_words", source) } }
}

// How the i-th word of a prompt is picked, and what its title says; null for one that cannot be.
const markOf = (node, open, marks, words, i) => {
  const names = open.filter((name) => name in marks)
  if (!names.length || !piecesOf(words, i).length) return null
  const louder = names.includes("emphasis") ? marks.emphasis[i][0] : undefined
  return {
    names: names.filter((name) => marks[name][i].length),
    factor: louder && factorOf(louder),
    title: names.map((name) => `${labelOf(node, name)}: ${say(`pick_${name}`)}`).join("\n"),
  }
}

// Put the word with this key on a list or take it off.
export const pickWord = (node, { prompt, targets, lists }, key, name) => {
  const [line, side, i] = key.split(" ")
  if (side === "source" && name === "emphasis") return
  const texts = targetsOf(targets, prompt)
  const words = wordsOf(side === "source" ? prompt : texts[line])
  const box = boxOf(node, name)
  if (!box) return
  write(app.canvas,
    [[box, toggled(name, lists[name] ?? "", texts.length, Number(line), words, Number(i))]])
}

// Which word of the source a word of the panel is, or stands for under replace; null if none.
const sourceWord = (source, target, mode, side, i) => {
  if (side === "source") return i
  const { parts, replaces } = compared(source, target, mode)
  if (replaces) return i
  let at = 0
  for (const [kind, , place] of parts) {
    if (kind === "same" && place === i) return at
    if (kind !== "ins") at++
  }
  return null
}

// { picture, heat, word } of a word, as the node that made the trajectory saw it; null if unknown.
export const heatOf = (node, { prompt, targets, mode }, key, outputOf) => {
  const [line, side, i] = key.split(" ")
  const seen = outputOf(trajectoryOf(node))?.word_heat?.[0]
  if (!seen || !prompt || seen.prompt !== prompt) return null
  const text = targetsOf(targets, prompt)[line]
  const [source, target] = [prompt, text].map((each) => ({ text: each, words: wordsOf(each) }))
  const place = sourceWord(source, target, mode, side, Number(i))
  const heat = place === null ? null : seen.heats[place]
  return heat ? { picture: seen.picture, heat, word: source.words[place] } : null
}
