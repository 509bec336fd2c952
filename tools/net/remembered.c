#include "tools/net/remembered.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define FILE_NAME "addresses"

static void path_print(const char *folder, char path[PATH_MAX])
{
	snprintf(path, PATH_MAX, "%s/" FILE_NAME, folder);
}

static void line_read(struct remembered_list *l, const char *line)
{
	struct remembered *r = &l->list[l->n];
	char mac[24], address[ADDRESS_TEXT_MAX];

	if (l->n < REMEMBERED_MAX && sscanf(line, "%23s %45s", mac, address) == 2 && mac_parse(mac, r->mac) == 0 &&
		address_parse(address, AF_INET, &r->address) == 0)
		l->n++;
}

int remembered_read(const char *folder, struct remembered_list *ret, struct err *e)
{
	CLEANUP_FREE char *text = NULL;
	char path[PATH_MAX];
	size_t len;
	int r;

	ret->n = 0;
	ret->changed = false;
	path_print(folder, path);
	r = file_read(path, 1 * MIB, &text, &len, e);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		line_read(ret, line);
	return 0;
}

static void remove_at(struct remembered_list *l, size_t at)
{
	memmove(&l->list[at], &l->list[at + 1], (l->n - at - 1) * sizeof(*l->list));
	l->n--;
}

void remembered_add(struct remembered_list *l, const uint8_t mac[MAC_BYTES], const struct address *a)
{
	size_t of_mac = 0, last = 0;

	for (size_t i = 0; i < l->n; i++) {
		if (memcmp(l->list[i].mac, mac, MAC_BYTES) != 0)
			continue;
		if (address_equal(&l->list[i].address, a))
			return;
		of_mac++;
		last = i;
	}
	if (of_mac == REMEMBERED_OF_MAC)
		remove_at(l, last);
	else if (l->n == REMEMBERED_MAX)
		l->n--;
	memmove(&l->list[1], &l->list[0], l->n * sizeof(*l->list));
	memcpy(l->list[0].mac, mac, MAC_BYTES);
	l->list[0].address = *a;
	l->n++;
	l->changed = true;
}

int remembered_write(const char *folder, const struct remembered_list *l, struct err *e)
{
	CLEANUP_FREE char *text = NULL;
	char path[PATH_MAX], mac[MAC_TEXT_MAX], address[ADDRESS_TEXT_MAX];
	size_t len;
	FILE *f;

	if (!l->changed)
		return 0;
	f = open_memstream(&text, &len);
	if (!f)
		return err_set_errno(e, -ENOMEM, FILE_NAME);
	for (size_t i = 0; i < l->n; i++)
		fprintf(f, "%s %s\n", mac_print(l->list[i].mac, mac), address_print(&l->list[i].address, address));
	if (fclose(f))
		return err_set_errno(e, -ENOMEM, FILE_NAME);
	path_print(folder, path);
	return file_write_atomic(path, text, len, 0600, e);
}
