#include "tools/archive/helper.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/relay.h"
#include "block/block.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int helper_spec_read(struct json_object **ret, struct err *e)
{
	CLEANUP_FREE char *text = NULL;
	size_t len;
	int r = file_read_fd(HELPER_SPEC_FD, "the specification", HELPER_SPEC_MAX, &text, &len, e);

	return r < 0 ? r : js_parse(text, len, "the specification", ret, e);
}

int helper_held_take(struct json_object *spec, int first, struct err *e)
{
	int r = relay_take_at(first, js_get_int(spec, "relays", 0), js_get_int(spec, "held", 0));

	return r < 0 ? err_set_errno(e, r, "cannot get the files from the processes that opened them") : 0;
}

int helper_layers_take(struct json_object *list, struct block_layer *layers, unsigned *ret_n, struct err *e)
{
	size_t n = json_object_array_length(list);

	if (!n || n > BLOCK_LAYERS_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "too many layers");
	for (size_t i = 0; i < n; i++) {
		struct json_object *o = json_object_array_get_idx(list, i);
		const char *format = js_get_str(o, "format");

		layers[i] = (struct block_layer){ .fd = (int)js_get_int(o, "fd", -1),
			.format = format && !strcmp(format, "qcow2") ? BLOCK_FORMAT_QCOW2
								     : BLOCK_FORMAT_RAW,
			.data_fd = (int)js_get_int(o, "data_fd", 0) };
	}
	*ret_n = (unsigned)n;
	return 0;
}

void helper_print(const char *what, struct json_object *o)
{
	CLEANUP_JS struct json_object *line = json_object_new_object();

	js_put(line, what, o);
	puts(json_object_to_json_string_ext(line, JSON_C_TO_STRING_PLAIN));
	fflush(stdout);
}

int helper_fail(const struct err *e)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "class", err_class_name(e->cls));
	js_put_str(o, "message", e->msg);
	helper_print("error", o);
	return 1;
}
