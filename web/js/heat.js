// Where a word looked in the inversion, beside the words panel while the pointer is on the word.
import { say } from "./texts.js"

const SIDE = 192
const GAP = 12
export const HEAT_STYLE = `
  .stylediffusion-heat { position: fixed; inset: auto; margin: 0; padding: 4px; border: 0;
    border-radius: 4px; background: var(--comfy-menu-bg, #353535); pointer-events: none;
    color: var(--input-text, #ddd); font: 11px/14px sans-serif; width: ${SIDE}px; }
  .stylediffusion-heat div { display: grid; }
  .stylediffusion-heat img { grid-area: 1 / 1; width: 100%; height: 100%; display: block; }
  .stylediffusion-heat img:first-child { filter: grayscale(.75); }
  .stylediffusion-heat img + img { position: relative; }
  .stylediffusion-heat figcaption { padding-top: 4px; }
`

// In the page's top layer, since the panel cuts off what is outside of it.
export class Heat {
  constructor() {
    this.element = document.createElement("figure")
    this.element.className = "stylediffusion-heat"
    this.element.popover = "manual"
    const pictures = document.createElement("div")
    this.images = ["picture", "heat"].map(() => pictures.appendChild(new Image()))
    this.caption = document.createElement("figcaption")
    this.element.append(pictures, this.caption)
  }

  // seen: { picture, heat, word }; beside a panel, as high as the word.
  show({ picture, heat, word }, at, beside) {
    const [panel, line] = [beside, at].map((each) => each.getBoundingClientRect())
    this.images[0].src = picture
    this.images[1].src = heat
    this.caption.textContent = say("heat", { word })
    this.element.showPopover()
    const { width, height } = this.element.getBoundingClientRect()
    const right = panel.right + GAP + width <= innerWidth
    const left = right ? panel.right + GAP : Math.max(0, panel.left - GAP - width)
    const top = Math.max(0, Math.min(line.top, innerHeight - height))
    Object.assign(this.element.style, { left: `${left}px`, top: `${top}px` })
  }

  hide() {
    if (this.element.matches(":popover-open")) this.element.hidePopover()
  }
}
