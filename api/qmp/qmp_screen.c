/* QMP handler of send-key. screendump is in qmp_dump.c, with the other command that writes a file. */
#include "api/commands/command_screen.h"
#include "api/qmp/qmp_handler.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/key_codes.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* {"type": "qcode", "data": "ret"} or {"type": "number", "data": 28} */
static int key_read(struct json_object *v, uint16_t *ret, struct err *e)
{
	const char *type = js_get_str_or(v, "type", ""), *name = js_plain_string(js_get(v, "data"));
	bool number = json_object_is_type(js_get(v, "data"), json_type_int);
	char text[24];

	if (!strcmp(type, "qcode") && name)
		return key_code_of_qemu(name, ret, e);
	if (strcmp(type, "number") != 0 || !number)
		return err_set(e, -EINVAL, ERR_INVALID, "keys: each key is an object, with type \"qcode\" and a name as data, or type "
			"\"number\" and a number");
	snprintf(text, sizeof(text), "%lld", (long long)json_object_get_int64(js_get(v, "data")));
	return key_code("qnum", text, ret, e);
}

void qmp_send_key(struct call *c)
{
	struct json_object *keys = js_get_array(c->args, "keys");
	size_t n = json_object_array_length(keys);
	uint16_t codes[VM_KEYS_MAX];
	struct err e;
	int r = 0;

	for (size_t i = 0; i < MIN(n, (size_t)VM_KEYS_MAX) && !r; i++)
		r = key_read(json_object_array_get_idx(keys, i), &codes[i], &e);
	if (r < 0)
		call_fail(c, &e);
	else
		screen_press_keys(c, codes, n, js_get_int(c->args, "hold-time", SCREEN_KEYS_HOLD_MS));
}
