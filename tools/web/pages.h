/* pages: the files in page/, which are in the program. */
#ifndef CAIRN_TOOLS_WEB_PAGES_H
#define CAIRN_TOOLS_WEB_PAGES_H

struct page {
	const char *path, *type, *data;
};

/* Returns the page at the path of a URL; NULL: none. */
const struct page *page_find(const char *path);

#endif
