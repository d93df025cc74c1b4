/* A region that scrolls sideways can be scrolled with the keyboard only if it takes the focus. */
function letScrollingRegionsTakeFocus() {
  const regions = document.querySelectorAll(
    "article .pst-scrollable-table-container, article pre, article div.math, article .output"
  );
  for (const region of regions) {
    const scrolls = region.scrollWidth > region.clientWidth && getComputedStyle(region).overflowX !== "visible";
    if (scrolls && !region.hasAttribute("tabindex")) region.tabIndex = 0;
  }
}
window.addEventListener("load", () => {
  const formulas = window.MathJax?.startup?.promise ?? Promise.resolve();
  formulas.then(letScrollingRegionsTakeFocus);
  window.addEventListener("resize", letScrollingRegionsTakeFocus);
});
