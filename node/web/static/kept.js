"use strict";
// Keeps the page's element `kept` as the node has it; needs anew.js.
keepAnew("kept");
