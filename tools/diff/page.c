#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"
#include "tools/diff/diff.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* With the summary of all disks, a page fits into an answer of 62 KiB (JS_ANSWER_MAX), and job lists stay small. */
#define PAGE_BYTES (24 * 1024)

int diff_place_parse(const char *text, struct diff_place *ret, struct err *e)
{
	const char *colon = text ? strchr(text, ':') : NULL;
	size_t n = colon ? (size_t)(colon - text) : 0;

	*ret = (struct diff_place){ .rest = "" };
	if (!text)
		return 0;
	if (!n || n >= sizeof(ret->disk))
		return err_set(e, -EINVAL, ERR_INVALID, "page: must be the member `next` of the page before");
	memcpy(ret->disk, text, n);
	ret->rest = colon + 1;
	return 0;
}

bool diff_page_add(struct diff_page *p, struct json_object *o, const char *next)
{
	size_t bytes = js_line_bytes(o);

	if (p->n && (p->n == p->max || p->bytes + bytes > PAGE_BYTES)) {
		json_object_put(o);
		free(p->next);
		p->next = must_alloc(strdup(next));
		return false;
	}
	p->bytes += bytes;
	p->n++;
	json_object_array_add(p->list, o);
	return true;
}
