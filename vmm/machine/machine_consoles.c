#include "vmm/machine/machine_consoles.h"
#include "base/err.h"
#include "devices/console.h"
#include "vmm/machine/machine.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

int machine_console_attach(struct machine *m, const struct vm_console *want, int fd, struct err *e)
{
	if (want->kind > VM_CONSOLE_VIRTIO)
		return err_set(e, -EINVAL, ERR_INVALID, "a console request needs a kind");
	if (!m->consoles[want->kind])
		return err_set(e, -ENOENT, ERR_NOT_FOUND,
			"the VM has no virtio console; set \"console\": {\"virtio\": true}");
	return console_attach(m->consoles[want->kind], fd, want->history,
		(struct console_user){ want->user, want->group }, e);
}

/* id: 1 + a number; 0: none. */
static bool is_among(uint32_t id, const uint32_t *numbers, uint32_t n)
{
	while (id && n && numbers[n - 1] != id - 1)
		n--;
	return id && n;
}

static bool may_stay(const void *opaque, struct console_user who)
{
	const struct vm_console_end *stay = opaque;

	return is_among(who.user, stay->ids, stay->nusers) || is_among(who.group, stay->ids + stay->nusers, stay->ngroups);
}

int machine_consoles_end(struct machine *m, const struct vm_console_end *stay, size_t len, struct err *e)
{
	uint64_t n = (uint64_t)stay->nusers + stay->ngroups;

	if (n > VM_CONSOLE_IDS_MAX || len != offsetof(struct vm_console_end, ids) + n * sizeof(stay->ids[0]))
		return err_set(e, -EINVAL, ERR_INVALID, "the list of users and groups is malformed");
	for (unsigned kind = VM_CONSOLE_SERIAL; kind <= VM_CONSOLE_VIRTIO; kind++)
		console_end(m->consoles[kind], may_stay, stay);
	return 0;
}

void machine_consoles_tell(const struct machine *m, const char *text)
{
	char line[sizeof(((struct vm_agent *)NULL)->text) + 8];
	int n = snprintf(line, sizeof(line), "\r\n[%s]\r\n", text);

	for (unsigned kind = VM_CONSOLE_SERIAL; kind <= VM_CONSOLE_VIRTIO; kind++)
		if (m->consoles[kind])
			console_write(m->consoles[kind], line, (size_t)n);
}
