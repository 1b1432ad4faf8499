"""The one door to ComfyUI: everything that imports comfy for the pack lives here."""
