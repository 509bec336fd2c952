/* QMP handlers of send-key and input-send-event. screendump is in qmp_dump.c, with the other command that writes a
 * file. */
#include "api/commands/command_screen.h"
#include "api/qmp/qmp_handler.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_process.h"
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

/* ---- input-send-event ---- */

#define INPUT_TIMEOUT_NS (10 * 1000000000ULL)

static struct input_event *event_add(struct vm_input *in, enum input_kind kind)
{
	struct input_event *ev = &in->events[in->n++];

	*ev = (struct input_event){ .kind = (uint8_t)kind };
	return ev;
}

static int key_event(struct json_object *data, struct vm_input *in, struct err *e)
{
	struct input_event *ev = event_add(in, INPUT_KEY);

	ev->down = js_get_bool(data, "down", false);
	return key_read(js_get(data, "key"), &ev->code, e);
}

static int button_event(struct json_object *data, struct vm_input *in, struct err *e)
{
	static const char *const buttons[INPUT_BUTTONS] = { [INPUT_LEFT] = "left", [INPUT_RIGHT] = "right", [INPUT_MIDDLE] = "middle" };
	const char *name = js_get_str_or(data, "button", "");
	bool down = js_get_bool(data, "down", false);

	for (unsigned i = 0; i < INPUT_BUTTONS; i++) {
		struct input_event *ev;

		if (strcmp(name, buttons[i]) != 0)
			continue;
		ev = event_add(in, INPUT_BUTTON);
		ev->code = (uint16_t)i;
		ev->down = down;
		return 0;
	}
	if (strcmp(name, "wheel-up") != 0 && strcmp(name, "wheel-down") != 0)
		return err_set(e, -EINVAL, ERR_GENERIC, "Parameter 'button' does not accept value '%.40s'", name);
	if (down) /* a step; the release is none */
		event_add(in, INPUT_WHEEL)->x = !strcmp(name, "wheel-up") ? 1 : -1;
	return 0;
}

/* A coordinate joins the one before it, so that the pointer moves once. */
static int axis_event(struct json_object *data, struct vm_input *in, struct err *e)
{
	const char *axis = js_get_str_or(data, "axis", "");
	struct input_event *last = in->n ? &in->events[in->n - 1] : NULL;
	int64_t value = js_get_int(data, "value", -1);
	bool is_y = !strcmp(axis, "y");

	if (!is_y && strcmp(axis, "x") != 0)
		return err_set(e, -EINVAL, ERR_GENERIC, "Parameter 'axis' does not accept value '%.40s'", axis);
	if (value < 0 || value >= VM_INPUT_AXIS)
		return err_set(e, -EINVAL, ERR_GENERIC, "value: a coordinate is 0 to %d", VM_INPUT_AXIS - 1);
	if (!last || last->kind != INPUT_POINT || (is_y ? last->y : last->x) >= 0) {
		last = event_add(in, INPUT_POINT);
		last->x = last->y = -1;
	}
	if (is_y)
		last->y = (int32_t)value;
	else
		last->x = (int32_t)value;
	return 0;
}

static int event_read(struct json_object *v, struct vm_input *in, struct err *e)
{
	const char *type = js_get_str_or(v, "type", "");
	struct json_object *data = js_get(v, "data");

	if (!strcmp(type, "key"))
		return key_event(data, in, e);
	if (!strcmp(type, "btn"))
		return button_event(data, in, e);
	if (!strcmp(type, "abs"))
		return axis_event(data, in, e);
	if (!strcmp(type, "rel"))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "events of type rel are not supported: send coordinates, with type abs");
	return err_set(e, -EINVAL, ERR_GENERIC, "Parameter 'type' does not accept value '%.40s'", type);
}

void qmp_input_send_event(struct call *c)
{
	struct json_object *events = js_get_array(c->args, "events");
	size_t n = json_object_array_length(events);
	struct vm_input in = { 0 };
	struct err e;
	int r = vm_compat_check_live(c->vm, VM_KNOWS_INPUT, &e);

	if (!r && n > VM_INPUT_MAX)
		r = err_set(&e, -EINVAL, ERR_INVALID, "events: at most %d at once", VM_INPUT_MAX);
	for (size_t i = 0; i < n && !r; i++)
		r = event_read(json_object_array_get_idx(events, i), &in, &e);
	if (r < 0)
		call_fail(c, &e);
	else
		vm_process_request(c->vm->proc, VM_MSG_INPUT, &in, sizeof(in), -1, INPUT_TIMEOUT_NS, command_answered, c);
}
