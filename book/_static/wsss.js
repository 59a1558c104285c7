// What is wider than a phone scrolls sideways. A keyboard reaches what scrolls only if it can have the focus; the theme
// sees to code, tables and output, not to figures and to formulas, which MathJax draws later.
(() => {
  const makeFocusable = () => {
    for (const element of document.querySelectorAll("mjx-container[display='true'], figure")) {
      if (element.scrollWidth > element.clientWidth) element.tabIndex = 0;
      else element.removeAttribute("tabindex");
    }
  };
  window.addEventListener("load", async () => {
    await window.MathJax?.startup?.promise;
    makeFocusable();
    window.addEventListener("resize", makeFocusable);
  });
})();
