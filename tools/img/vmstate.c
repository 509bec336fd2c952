/* vmstate-info: show the content of a VM state, in a snapshot or in a separate file. */
#include "img.h"

#include "base/cleanup.h"
#include "base/cpuid.h"
#include "base/util.h"
#include "base/uuid.h"
#include "block/block_snapshot.h"
#include "snapshot/cpu_state.h"
#include "snapshot/image_state.h"
#include "snapshot/state.h"
#include "snapshot/vmstate.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FEATURES_BYTES 4096

static void section_add(struct json_object *o, const char *key, uint64_t v)
{
	json_object_object_add(o, key, json_object_new_uint64(v));
}

/* ---- printing a VM state ---- */

static struct json_object *header_json(const struct vmstate_header *h)
{
	struct json_object *o = json_object_new_object();
	char uuid[UUID_TEXT];

	section_add(o, "version", h->version);

	uuid_print(h->uuid, uuid);
	json_object_object_add(o, "uuid", json_object_new_string(uuid));
	section_add(o, "taken-ns", h->realtime_ns);
	section_add(o, "sections-bytes", h->sections_bytes);
	section_add(o, "definition-bytes", h->definition_bytes);
	if (h->definition_bytes) /* a saved file: a snapshot has this in its tree data */
		json_object_object_add(o, "paused", json_object_new_boolean(h->paused));
	section_add(o, "ram-bytes", h->layout.ram_bytes);
	section_add(o, "ram-offset", h->layout.ram_offset);
	section_add(o, "total-bytes", h->layout.total_bytes);
	return o;
}

static void ram_json(struct json_object *o, const struct vmstate_header *h, const uint32_t *crcs)
{
	uint64_t zero = 0;

	for (uint64_t i = 0; i < h->layout.blocks; i++)
		zero += vmstate_block_is_zero(&h->layout, crcs, i);
	section_add(o, "ram-blocks", h->layout.blocks);
	section_add(o, "ram-blocks-zero", zero);
}

static struct json_object *leaves_json(const struct cpuid *c)
{
	static const char *const regs[] = { "eax", "ebx", "ecx", "edx" };
	struct json_object *list = json_object_new_array();

	for (uint32_t i = 0; c && i < c->n; i++) {
		const struct cpuid_leaf *l = &c->leaf[i];
		struct json_object *o = json_object_new_object();

		section_add(o, "leaf", l->function);
		section_add(o, "index", l->index);
		for (unsigned k = 0; k < ARRAY_SIZE(regs); k++)
			section_add(o, regs[k], l->reg[k]);
		json_object_array_add(list, o);
	}
	return list;
}

/* Add the guest's processor. The listed features are those that the guest's user mode sees. */
static int cpu_json(struct json_object *o, struct state_reader *r, struct err *e)
{
	struct json_object *cpu = json_object_new_object();
	char features[FEATURES_BYTES];
	struct cpu_state c;
	int ret = cpu_state_take(r, &c, e);

	json_object_object_add(o, "cpu", cpu);
	if (!ret) {
		cpuid_list_more(c.own ? c.own : c.guest, NULL, features, sizeof(features));
		json_object_object_add(cpu, "cpuid", json_object_new_string(c.own ? "processor" : "virtual"));
		section_add(cpu, "sockets", c.sockets);
		section_add(cpu, "cores", c.cores);
		section_add(cpu, "threads", c.threads);
		section_add(cpu, "tsc-khz", c.tsc_khz);
		section_add(cpu, "xcr0", c.xcr0);
		json_object_object_add(cpu, "features", json_object_new_string(features));
		json_object_object_add(cpu, "leaves", leaves_json(c.guest));
		json_object_object_add(cpu, "processor-leaves", leaves_json(c.own));
	}
	cpu_state_done(&c);
	return ret;
}

/* Add a section's content, as far as this tool can parse it. */
static int content_json(struct json_object *o, struct state_section *s, struct err *e)
{
	uint8_t sizes[16]; /* size of memory, number of vCPUs, number of devices: not shown */

	if (!strcmp(s->name, CPU_STATE_SECTION) && s->version == CPU_STATE_VERSION)
		return cpu_json(o, &s->content, e);
	if (strcmp(s->name, "machine"))
		return 0;
	state_bytes(&s->content, sizes, sizeof(sizes));
	section_add(o, "machine-version", s->version > 1 ? state_u32(&s->content) : 1);
	return 0;
}

static int sections_json(struct json_object *o, const uint8_t *buf, size_t len, struct err *e)
{
	struct json_object *list = json_object_new_array();
	struct state_section s;
	size_t pos = 0;
	int r;

	json_object_object_add(o, "sections", list);
	while ((r = state_section_next(buf, len, &pos, &s, e)) > 0) {
		struct json_object *i = json_object_new_object();

		json_object_object_add(i, "name", json_object_new_string(s.name));
		json_object_object_add(i, "instance", json_object_new_string(s.instance));
		section_add(i, "version", s.version);
		section_add(i, "bytes", s.content.len);
		json_object_array_add(list, i);
		r = content_json(o, &s, e);
		if (r < 0)
			return r;
	}
	return r;
}

static const char *section_text(struct json_object *o, const char *key)
{
	return json_object_get_string(json_object_object_get(o, key));
}

static void cpu_print(struct json_object *cpu)
{
	printf("cpu: %s CPUID, %s sockets, %s cores, %s threads, TSC %s kHz, XCR0 0x%llx\ncpu-features: %s\n",
		section_text(cpu, "cpuid"), section_text(cpu, "sockets"), section_text(cpu, "cores"),
		section_text(cpu, "threads"), section_text(cpu, "tsc-khz"),
		(unsigned long long)json_object_get_uint64(json_object_object_get(cpu, "xcr0")),
		section_text(cpu, "features"));
}

static void vmstate_print(struct json_object *o)
{
	struct json_object *list = json_object_object_get(o, "sections");

	json_object_object_foreach(o, key, v) {
		if (json_object_is_type(v, json_type_object))
			cpu_print(v);
		else if (v != list)
			printf("%s: %s\n", key, json_object_get_string(v));
	}
	printf("sections:\n  %-24s %-16s %7s %9s\n", "NAME", "INSTANCE", "VERSION", "BYTES");
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		struct json_object *s = json_object_array_get_idx(list, i);
		char name[STATE_NAME_MAX + 1], instance[STATE_NAME_MAX + 1];

		printf("  %-24s %-16s %7s %9s\n", img_printable(section_text(s, "name"), name, sizeof(name)),
			img_printable(section_text(s, "instance"), instance, sizeof(instance)), section_text(s, "version"),
			section_text(s, "bytes"));
	}
}

static int state_print(struct vmstate_store *store, bool as_json, struct err *e)
{
	CLEANUP_FREE uint8_t *sections = NULL;
	CLEANUP_FREE uint32_t *crcs = NULL;
	struct vmstate_header h;
	struct json_object *o;
	int r = vmstate_read_header(store, &h, e);

	if (!r)
		r = vmstate_read_sections(store, &h, &sections, e);
	if (!r)
		r = vmstate_read_crcs(store, &h, &crcs, e);
	if (r < 0)
		return r;
	o = header_json(&h);
	ram_json(o, &h, crcs);
	r = sections_json(o, sections, h.sections_bytes, e);
	if (!r && as_json)
		img_json_print(o);
	else if (!r)
		vmstate_print(o);
	json_object_put(o);
	return r;
}

/* ---- finding the VM state; the verb vmstate-info ---- */

/* Find a snapshot by name or id. name: NULL: the last snapshot with a VM state. */
static int snapshot_find(struct block *b, const char *path, const char *name, char ret_id[BLOCK_SNAPSHOT_ID_MAX + 1], struct err *e)
{
	CLEANUP_FREE struct block_snapshot_info *all = NULL;
	const struct block_snapshot_info *f = NULL;
	size_t n;
	int r = block_snapshot_list(b, &all, &n, e);

	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++)
		if (name ? !strcmp(all[i].name, name) || (!f && !strcmp(all[i].id, name))
			 : all[i].vm_state_bytes > 0)
			f = &all[i];
	if (!f)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, name ? "%s has no snapshot '%s'"
			: "%s has no snapshot with a VM state%s", path, name ? name : "");
	if (!f->vm_state_bytes)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "snapshot '%s' has no VM state, only the disk",
			f->name);
	snprintf(ret_id, BLOCK_SNAPSHOT_ID_MAX + 1, "%s", f->id);
	return 0;
}

static int image_print(struct img_open *o, const char *name, bool as_json, struct err *e)
{
	char id[BLOCK_SNAPSHOT_ID_MAX + 1];
	struct image_state s;
	struct loop *l = img_loop(0);
	struct block *b;
	int r = img_block_open(l, o, &b, e);

	if (!r) {
		r = img_seal(false, e);
		if (!r)
			r = snapshot_find(b, o->path, name, id, e);
		if (!r) {
			image_state_init(&s, l, b, id);
			r = state_print(&s.store, as_json, e);
		}
		(void)block_close(b);
	}
	return r;
}

static bool is_state_file(const char *path)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char magic[8];

	return fd >= 0 && pread(fd, magic, 8, 0) == 8 && !memcmp(magic, "CAIRNVMS", 8);
}

static int file_print(const char *path, bool as_json, struct err *e)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct vmstate_file f;

	if (fd < 0)
		return err_set_errno(e, -errno, "cannot open %s", path);
	vmstate_file_init(&f, fd);
	return state_print(&f.store, as_json, e);
}

int img_vmstate_main(int argc, char **argv)
{
	struct img_common x = { 0 };
	struct err e = { 0 };
	int c, r, st = 0;

	img_common_init(&x, "vmstate-info");
	while (!st && (c = getopt_long(argc, argv, "U", img_common_longs, NULL)) != -1)
		st = img_common_option(&x, c, c == '?' ? argv[optind - 1] : optarg);
	if (st)
		return st;
	if (argc - optind < 1 || argc - optind > 2)
		return img_usage("vmstate-info", "one FILE is required, and at most one SNAPSHOT");
	x.o.path = argv[optind];
	img_sandbox_image(&x.o);
	if (img_confine(1, 64, &e) < 0)
		return img_fail(&e);
	if (argc - optind == 1 && is_state_file(x.o.path))
		r = file_print(x.o.path, x.json, &e);
	else
		r = image_print(&x.o, argv[optind + 1], x.json, &e);
	return r < 0 ? img_fail(&e) : 0;
}
