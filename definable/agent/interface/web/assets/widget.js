// Shows the chat on a page of another site: <script src="https://.../chat/widget.js" defer></script>
//
// data-title names the button, data-token is what the service's auth wants, data-open opens the chat at once;
// window.definableChat has open(), close() and token(value).

(() => {
  const script = document.currentScript;
  const folder = new URL(".", script.src);
  const page = folder.href.slice(0, -1);
  const title = script.dataset.title ?? "Chat";
  const color = script.dataset.color ?? "#2456c4";
  let token = script.dataset.token ?? null;
  let frame = null;

  // Properties, not attributes: the page's policy may allow no inline styles.
  const styled = (element, style) => Object.assign(element.style, style) && element;
  const toggle = styled(document.createElement("button"), {
    position: "fixed", insetInlineEnd: "20px", bottom: "20px", zIndex: "2147483000", padding: "12px 20px",
    border: "2px solid #fff", borderRadius: "24px", background: color, color: "#fff",
    font: "600 16px/1.25 system-ui, sans-serif", cursor: "pointer", boxShadow: "0 2px 8px rgb(0 0 0 / 30%)",
  });
  toggle.type = "button";
  toggle.textContent = title;
  toggle.setAttribute("aria-expanded", "false");
  const place = document.createElement("aside"); // a landmark of the page around it
  place.setAttribute("aria-label", title);
  place.append(toggle);

  function fit() {
    const narrow = matchMedia("(max-width: 480px), (max-height: 480px)").matches;
    styled(frame, {
      position: "fixed", zIndex: "2147483001", border: "0", colorScheme: "light dark", background: "Canvas",
      insetInlineEnd: narrow ? "0" : "20px", bottom: narrow ? "0" : "80px",
      width: narrow ? "100%" : "400px", height: narrow ? "100%" : "min(640px, calc(100vh - 100px))",
      borderRadius: narrow ? "0" : "12px", boxShadow: "0 4px 24px rgb(0 0 0 / 35%)",
    });
  }

  function open() {
    if (!frame) {
      frame = document.createElement("iframe");
      frame.src = page;
      frame.title = title;
      frame.allow = "clipboard-write";
      place.append(frame);
      addEventListener("resize", () => frame.style.display === "none" || fit());
    }
    fit();
    frame.style.display = "block";
    toggle.setAttribute("aria-expanded", "true");
    frame.focus();
  }

  function close() {
    if (!frame) return;
    frame.style.display = "none";
    toggle.setAttribute("aria-expanded", "false");
    toggle.focus();
  }

  function tell() {
    if (token !== null) frame?.contentWindow.postMessage({type: "definable-chat:token", token}, folder.origin);
  }

  toggle.addEventListener("click", () => toggle.getAttribute("aria-expanded") === "true" ? close() : open());
  addEventListener("message", event => {
    if (!frame || event.source !== frame.contentWindow || event.origin !== folder.origin) return;
    if (event.data?.type === "definable-chat:close") close();
    if (event.data?.type === "definable-chat:ready") tell();
  });
  window.definableChat = {open, close, token: value => { token = value; tell(); }};

  const start = () => {
    document.body.append(place);
    if ("open" in script.dataset) open();
  };
  if (document.body) start();
  else addEventListener("DOMContentLoaded", start);
})();
