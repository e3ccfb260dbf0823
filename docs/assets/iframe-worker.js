// Browsers refuse `new Worker(...)` on pages opened from the disk. There, a worker's script runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.waiting = []
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.appendChild(frame)
      const inner = (this.inner = frame.contentWindow)
      inner.document.open()
      inner.document.write("<!doctype html><html><body></body></html>")
      inner.document.close()
      const load = (source) =>
        new Promise((resolve, reject) => {
          const script = inner.document.createElement("script")
          script.src = source
          script.onload = resolve
          script.onerror = reject
          inner.document.body.appendChild(script)
        })
      // A worker's importScripts blocks; here it returns a promise, which Material's search awaits.
      inner.importScripts = (...sources) => sources.reduce((last, next) => last.then(() => load(next)), Promise.resolve())
      inner.postMessage = (data) => {
        const event = new MessageEvent("message", { data })
        this.dispatchEvent(event)
        if (this.onmessage) this.onmessage(event)
      }
      load(url).then(() => {
        this.loaded = true
        this.waiting.forEach((data) => this.postMessage(data))
      })
    }
    postMessage(data) {
      if (this.loaded) this.inner.dispatchEvent(new MessageEvent("message", { data }))
      else this.waiting.push(data)
    }
    terminate() {
      this.inner.frameElement.remove()
    }
  }
}
