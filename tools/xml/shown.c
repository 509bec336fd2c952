#include "tools/xml/shown.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "tools/xml/writer.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

static int finish(struct writer *w, char **ret_xml, struct err *e)
{
	*ret_xml = writer_finish(w);
	return *ret_xml ? 0 : err_set_errno(e, -ENOMEM, "XML");
}

static void bytes_write(struct writer *w, struct json_object *o, const char *key)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRId64, js_get_int(o, key, 0));
	if (js_get(o, key))
		writer_text(w, key, text, "unit", "bytes", NULL);
}

int volume_print(struct json_object *o, char **ret_xml, struct err *e)
{
	const char *path = js_get_str_or(o, "path", ""), *backing = js_get_str(o, "backing");
	struct writer w;

	if (writer_init(&w) < 0)
		return err_set_errno(e, -ENOMEM, "XML");
	writer_open(&w, "volume", "type", "file", NULL);
	writer_text(&w, "name", js_get_str_or(o, "name", ""), NULL);
	writer_text(&w, "key", path, NULL);
	bytes_write(&w, o, "capacity");
	bytes_write(&w, o, "allocation");
	writer_open(&w, "target", NULL);
	writer_text(&w, "path", path, NULL);
	if (js_get_str(o, "format"))
		writer_leaf(&w, "format", "type", js_get_str(o, "format"), NULL);
	writer_close(&w, "target");
	if (backing) {
		writer_open(&w, "backingStore", NULL);
		writer_text(&w, "path", backing, NULL);
		writer_close(&w, "backingStore");
	}
	writer_close(&w, "volume");
	return finish(&w, ret_xml, e);
}

int snapshot_print(struct json_object *o, char **ret_xml, struct err *e)
{
	char time[24];
	struct writer w;

	if (writer_init(&w) < 0)
		return err_set_errno(e, -ENOMEM, "XML");
	snprintf(time, sizeof(time), "%" PRId64, js_get_int(o, "time", 0) / 1000000000);
	writer_open(&w, "domainsnapshot", NULL);
	writer_text(&w, "name", js_get_str_or(o, "name", ""), NULL);
	if (js_get_str(o, "description"))
		writer_text(&w, "description", js_get_str(o, "description"), NULL);
	writer_text(&w, "state", js_get_str_or(o, "state", ""), NULL);
	if (js_get_str(o, "parent")) {
		writer_open(&w, "parent", NULL);
		writer_text(&w, "name", js_get_str(o, "parent"), NULL);
		writer_close(&w, "parent");
	}
	writer_text(&w, "creationTime", time, NULL);
	writer_leaf(&w, "memory", "snapshot", js_get_int(o, "vm-state-size", 0) ? "internal" : "no", NULL);
	writer_close(&w, "domainsnapshot");
	return finish(&w, ret_xml, e);
}
