/* Handlers of vm-screenshot, which writes what a guest shows on its screen into a file, and of vm-send-key. */
#include "api/commands/command.h"
#include "api/access/client_file.h"
#include "api/jobs/outfile.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/key_codes.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define KEYS_TIMEOUT_NS (200 * 1000000000ULL) /* others may be held before */
#define KEYS_HOLD_MS 100
#define SCREENSHOT_TIMEOUT_NS (60 * 1000000000ULL) /* other work of the VM's process may come first */

static int screen_check(const struct vm *vm, enum vm_known what, struct err *e)
{
	const char *name = vm->def->name;
	int r = vm_live_check(vm, e);

	if (r < 0)
		return r;
	if (!vm_process_knows(vm->proc, what))
		return vm_compat_refuse(name, e);
	return vm_live(vm)->screen ? 0 : err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
		"VM '%.100s' runs without a screen; set \"screen\": true (cairn edit %.100s), shut the VM down and start it", name, name);
}

static void work_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	(void)a;
	call_done(opaque, r, e);
}

void command_vm_screenshot(struct call *c)
{
	const char *format = js_get_str(c->args, "format");
	struct vm_screenshot body = { .format = format && !strcmp(format, "png") ? VM_IMAGE_PNG : VM_IMAGE_PPM };
	struct err e;
	int r = screen_check(c->vm, VM_KNOWS_SCREENSHOT, &e);

	if (!r)
		r = outfile_check(c->file, O_WRONLY, "a screenshot", &e);
	if (r < 0) {
		call_fail(c, &e);
		return;
	}
	vm_process_request_with(c->vm->proc, VM_MSG_SCREENSHOT, &body, sizeof(body), STEAL_PTR(c->file), NULL, 0,
		SCREENSHOT_TIMEOUT_NS, work_done, c);
}

/* ---- keys ---- */

static int key_read(const char *codeset, struct json_object *v, uint16_t *ret, struct err *e)
{
	if (!json_object_is_type(v, json_type_int) && !js_plain_string(v))
		return err_set(e, -EINVAL, ERR_INVALID, "keys: each key is a name or a number");
	return key_code(codeset, json_object_get_string(v), ret, e);
}

static int keys_read(struct json_object *args, struct vm_keys *ret, struct err *e)
{
	const char *codeset = js_get_str_or(args, "codeset", "linux");
	struct json_object *keys = js_get_array(args, "keys");
	int64_t hold = js_get_int(args, "hold-time", KEYS_HOLD_MS);
	size_t n = json_object_array_length(keys);
	int r = key_codeset_check(codeset, e);

	if (!r && (!n || n > VM_KEYS_MAX))
		r = err_set(e, -EINVAL, ERR_INVALID, "keys: give 1 to %d keys", VM_KEYS_MAX);
	if (!r && (hold < 1 || hold > VM_KEYS_HOLD_MAX_MS))
		r = err_set(e, -EINVAL, ERR_INVALID, "hold-time: give 1 to %d milliseconds", VM_KEYS_HOLD_MAX_MS);
	*ret = (struct vm_keys){ .hold_ms = (uint32_t)hold };
	for (size_t i = 0; i < n && !r; i++)
		r = key_read(codeset, json_object_array_get_idx(keys, i), &ret->codes[ret->n++], e);
	return r;
}

void command_vm_send_key(struct call *c)
{
	struct vm_keys keys;
	struct err e;
	int r = screen_check(c->vm, VM_KNOWS_SEND_KEYS, &e);

	if (!r)
		r = keys_read(c->args, &keys, &e);
	if (r < 0)
		call_fail(c, &e);
	else
		vm_process_request(c->vm->proc, VM_MSG_SEND_KEYS, &keys, sizeof(keys), -1, KEYS_TIMEOUT_NS, work_done, c);
}
