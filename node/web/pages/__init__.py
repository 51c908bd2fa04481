"""The pages: HTML made of what `node.web.api` shows. Start with `node.web.pages.rendering`."""
