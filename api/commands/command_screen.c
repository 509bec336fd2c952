/* Handlers of vm-screenshot, which writes a picture of the guest's screen into a file, and of vm-send-key. */
#include "api/commands/command_screen.h"
#include "api/access/client_file.h"
#include "api/commands/command.h"
#include "api/jobs/outfile.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/key_codes.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define KEYS_TIMEOUT_NS (200 * 1000000000ULL) /* others may be held before */
#define SCREENSHOT_TIMEOUT_NS (60 * 1000000000ULL) /* the file may be slow */

static int screen_check(const struct vm *vm, enum vm_known what, struct err *e)
{
	const char *name = vm->def->name;
	int r = vm_live_check(vm, e);

	if (r < 0)
		return r;
	if (!vm_process_knows(vm->proc, what))
		return vm_compat_refuse(name, e);
	return vm_live(vm)->screen ? 0 : err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
		"VM '%s' runs without a screen; set \"screen\": true (cairn edit %s), shut the VM down and start it", name, shell_word(name).s);
}

int screen_save(struct vm *vm, enum vm_image_format format, struct client_file **file,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e), void *opaque, struct err *e)
{
	struct vm_screenshot body = { .format = (uint8_t)format };
	int r = screen_check(vm, VM_KNOWS_SCREENSHOT, e);

	if (r < 0)
		return r;
	vm_process_request_with(vm->proc, VM_MSG_SCREENSHOT, &body, sizeof(body), STEAL_PTR(*file), NULL, 0,
		SCREENSHOT_TIMEOUT_NS, done, opaque);
	return 0;
}

void command_vm_screenshot(struct call *c)
{
	const char *format = js_get_str(c->args, "format");
	struct err e;
	int r = outfile_check(c->file, O_WRONLY, "a screenshot", &e);

	if (!r)
		r = screen_save(c->vm, format && !strcmp(format, "png") ? VM_IMAGE_PNG : VM_IMAGE_PPM, &c->file, command_answered, c, &e);
	if (r < 0)
		call_fail(c, &e);
}

/* ---- keys ---- */

static int key_read(const char *codeset, struct json_object *v, uint16_t *ret, struct err *e)
{
	if (!json_object_is_type(v, json_type_int) && !js_plain_string(v))
		return err_set(e, -EINVAL, ERR_INVALID, "keys: each key is a name or a number");
	return key_code(codeset, json_object_get_string(v), ret, e);
}

void screen_press_keys(struct call *c, const uint16_t *codes, size_t n, int64_t hold_ms)
{
	struct vm_keys keys = { .hold_ms = (uint32_t)hold_ms, .n = (uint32_t)n };
	struct err e;
	int r = screen_check(c->vm, VM_KNOWS_SEND_KEYS, &e);

	if (!r && (!n || n > VM_KEYS_MAX))
		r = err_set(&e, -EINVAL, ERR_INVALID, "keys: give 1 to %d keys", VM_KEYS_MAX);
	if (!r && (hold_ms < 1 || hold_ms > VM_KEYS_HOLD_MAX_MS))
		r = err_set(&e, -EINVAL, ERR_INVALID, "hold-time: give 1 to %d milliseconds", VM_KEYS_HOLD_MAX_MS);
	if (r < 0) {
		call_fail(c, &e);
		return;
	}
	memcpy(keys.codes, codes, n * sizeof(*codes));
	vm_process_request(c->vm->proc, VM_MSG_SEND_KEYS, &keys, sizeof(keys), -1, KEYS_TIMEOUT_NS, command_answered, c);
}

void command_vm_send_key(struct call *c)
{
	const char *codeset = js_get_str_or(c->args, "codeset", "linux");
	struct json_object *keys = js_get_array(c->args, "keys");
	size_t n = json_object_array_length(keys);
	uint16_t codes[VM_KEYS_MAX];
	struct err e;
	int r = key_codeset_check(codeset, &e);

	for (size_t i = 0; i < MIN(n, (size_t)VM_KEYS_MAX) && !r; i++)
		r = key_read(codeset, json_object_array_get_idx(keys, i), &codes[i], &e);
	if (r < 0)
		call_fail(c, &e);
	else
		screen_press_keys(c, codes, n, js_get_int(c->args, "hold-time", SCREEN_KEYS_HOLD_MS));
}
