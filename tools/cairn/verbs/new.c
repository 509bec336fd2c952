/* new: a VM from a disk image by one command: an overlay, a seed of cloud-init, a definition and a start. */
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/signals.h"
#include "base/size.h"
#include "base/util.h"
#include "tools/cairn/backing.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/definition_file.h"
#include "tools/cairn/img_run.h"
#include "tools/cairn/output.h"
#include "tools/cairn/seed_image.h"
#include "tools/cairn/verbs/seed.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct new_vm {
	const char *name;
	char folder[PATH_MAX], base[PATH_MAX];
	char disk[PATH_MAX + 300], seed[PATH_MAX + 300];
	char format[16]; /* of the base */
	uint64_t size_bytes;
	bool has_seed, disk_made, seed_made;
	bool sent; /* the daemon may have the domain */
};

static bool wants_seed(const struct cli *c)
{
	static const char *const of_seed[] = { "hostname", "user", "ssh-key", "user-data", "network-config" };

	for (size_t i = 0; i < ARRAY_SIZE(of_seed); i++)
		if (option_value(c, of_seed[i]))
			return true;
	return option_flag(c, "cloud-init") || option_flag(c, "ssh-over-vsock");
}

/* The definition is made from the name, so the name is checked first; the daemon checks it, too. */
static int paths_make(struct cli *c, struct new_vm *n, struct err *e)
{
	const char *image = option_value(c, "image"), *folder = option_value(c, "folder");

	n->name = c->pos[0];
	n->has_seed = wants_seed(c);
	if (!*n->name || *n->name == '.' || strchr(n->name, '/') || strlen(n->name) > 255)
		return err_set(e, -EINVAL, ERR_INVALID, "\"%.60s\" cannot be the name of a domain", n->name);
	if (!realpath(image, n->base))
		return err_set_errno(e, -errno, "%s", image);
	if (!realpath(folder ? folder : ".", n->folder))
		return err_set_errno(e, -errno, "%s", folder ? folder : ".");
	snprintf(n->disk, sizeof(n->disk), "%s/%s.qcow2", n->folder, n->name);
	snprintf(n->seed, sizeof(n->seed), "%s/%s-seed.img", n->folder, n->name);
	return 0;
}

/* A raw image may begin with any header, so its format is stated. */
static int base_check(struct cli *c, struct new_vm *n, struct err *e)
{
	const char *format = option_value(c, "image-format"), *size = option_value(c, "size");
	const char *const args[] = { "info", "--output", "json", "-f", format ? format : "qcow2", "--", n->base, NULL };
	CLEANUP_JS struct json_object *info = NULL;
	uint64_t has;
	int r = img_run(args, &info, e);

	if (r < 0 && strstr(e->msg, "open for writing"))
		return err_set(e, -EBUSY, ERR_BUSY, "%.300s is open for writing; shut down the VM that uses it, or begin with a copy: cairn clone --live VM NAME",
			n->base);
	if (r < 0 && !format && e->cls != ERR_NOT_FOUND) /* of cairn-img itself */
		err_set(e, r, e->cls, "%.300s; if the image is raw, give --image-format raw", strdupa(e->msg));
	if (r < 0)
		return r;
	snprintf(n->format, sizeof(n->format), "%s", format ? format : "qcow2");
	has = (uint64_t)js_get_int(info, "virtual-size", 0);
	n->size_bytes = has;
	if (size && size_parse(size, 1, &n->size_bytes) < 0)
		return err_set(e, -EINVAL, ERR_INVALID, "--size must be a size such as 20G, not \"%.40s\"", size);
	n->size_bytes = ROUND_UP(n->size_bytes, 512);
	if (n->size_bytes < has)
		return err_set(e, -EINVAL, ERR_INVALID, "--size %.40s is less than the image has (%" PRIu64 " bytes), so its end would be cut off", size,
			has);
	return 0;
}

/* undefine --remove-all-storage leaves a seed, which is read-only for its VM. */
static int file_is_new(const char *path, struct err *e)
{
	return access(path, F_OK) < 0 ? 0 :
		err_set(e, -EEXIST, ERR_EXISTS, "%s exists; remove it, or choose another name or another --folder", path);
}

static int disk_make(struct new_vm *n, struct err *e)
{
	char size[24];
	const char *const args[] = { "create", "-q", "-f", "qcow2", "-b", n->base, "-F", n->format, "--", n->disk, size, NULL };
	CLEANUP_CLOSE int fd = open(n->disk, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd < 0)
		return err_set_errno(e, -errno, "%s", n->disk);
	n->disk_made = true;
	snprintf(size, sizeof(size), "%" PRIu64, n->size_bytes);
	return img_run(args, NULL, e);
}

static int seed_make(struct cli *c, struct new_vm *n, struct err *e)
{
	CLEANUP_JS struct json_object *files = json_object_new_object();
	int r = n->has_seed ? seed_files_make(c, n->name, files, e) : 0;

	if (!r && n->has_seed) {
		r = seed_image_write(files, n->seed, false, e);
		n->seed_made = !r;
	}
	return r;
}

static struct json_object *interface_make(const char *network)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "type", strcmp(network, "user") ? "network" : "user");
	if (strcmp(network, "user"))
		js_put_str(o, "source", network);
	return o;
}

/* The layers below the overlay: the image, and its own backing files. */
static int backing_make(const struct new_vm *n, struct json_object *disk, struct err *e)
{
	CLEANUP_JS struct json_object *base = json_object_new_object();
	struct json_object *layers = json_object_new_array(), *layer = json_object_new_object(), *below;
	int r;

	js_put_str(layer, "path", n->base);
	js_put_str(layer, "format", n->format);
	json_object_array_add(layers, layer);
	js_put(disk, "backing", layers);
	js_put_str(base, "path", n->base);
	r = strcmp(n->format, "qcow2") ? 0 : backing_put(base, e);
	below = js_get_array(base, "backing");
	for (size_t i = 0; !r && below && i < json_object_array_length(below); i++)
		json_object_array_add(layers, json_object_get(json_object_array_get_idx(below, i)));
	return r;
}

static int definition_make(struct cli *c, const struct new_vm *n, struct json_object **ret, struct err *e)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct json_object *boot = json_object_new_object(), *disks = json_object_new_array(), *nets = json_object_new_array();
	struct json_object *disk = json_object_new_object(), *seed;
	const char *memory = option_value(c, "memory"), *vcpus = option_value(c, "vcpus"), *network = option_value(c, "network");
	const char *firmware = option_value(c, "firmware");
	int r;

	js_put_str(o, "name", n->name);
	js_put_str(o, "memory", memory ? memory : "1G");
	js_put_int(o, "vcpus", vcpus ? atoll(vcpus) : 1);
	js_put_str(boot, "firmware", firmware ? firmware : "bios");
	js_put(o, "boot", boot);
	js_put_bool(o, "rng", true);
	if (option_flag(c, "ssh-over-vsock"))
		js_put_bool(o, "vsock", true);
	js_put_str(disk, "id", "vda");
	js_put_str(disk, "path", n->disk);
	js_put_str(disk, "format", "qcow2");
	json_object_array_add(disks, disk);
	js_put(o, "disks", disks);
	if (n->has_seed) {
		seed = json_object_new_object();
		js_put_str(seed, "id", "vdb");
		js_put_str(seed, "path", n->seed);
		js_put_str(seed, "format", "raw");
		js_put_bool(seed, "readonly", true);
		json_object_array_add(disks, seed);
	}
	json_object_array_add(nets, interface_make(network ? network : "user"));
	js_put(o, "interfaces", nets);
	r = backing_make(n, disk, e);
	if (!r)
		*ret = STEAL_PTR(o);
	return r;
}

/* A definition of that name would be replaced. */
static int name_check(struct cli *c, const char *name, struct err *e)
{
	CLEANUP_JS struct json_object *info = NULL;
	int r = cli_vm_info(c, name, &info, e);

	if (!r)
		return err_set(e, -EEXIST, ERR_EXISTS, "domain '%s' exists already; choose another name; cairn list --all shows those in use",
			name);
	return e->cls == ERR_NOT_FOUND ? 0 : r;
}

static int vm_define(struct cli *c, struct new_vm *n, struct err *e)
{
	CLEANUP_JS struct json_object *answer = NULL, *definition = NULL;
	struct json_object *args;
	int r = definition_make(c, n, &definition, e);

	if (r < 0)
		return r;
	args = json_object_new_object();
	js_put(args, "definition", STEAL_PTR(definition));
	js_put_str(args, "folder", n->folder);
	n->sent = true;
	r = cli_execute(c, "vm-define", args, &answer, NULL, e);
	if (!r)
		warnings_print(js_get_array(answer, "warnings"));
	return r;
}

/* Block or unblock the signals that end a program. One that came while it was blocked then ends this process. */
static void signals_mask(int how)
{
	sigset_t set;

	sigemptyset(&set);
	for (const int *sig = signals_of_end; *sig; sig++)
		sigaddset(&set, *sig);
	sigprocmask(how, &set, NULL);
}

/* Make the files and define the VM. Blocks the signals before the first file: a signal ends cairn-img, and then this
 * process removes the files; it waits for the daemon's answer, after which they are the VM's. */
static int vm_make(struct cli *c, struct new_vm *n, struct err *e)
{
	int r = paths_make(c, n, e);

	if (!r)
		r = name_check(c, n->name, e);
	if (!r)
		r = file_is_new(n->disk, e);
	if (!r && n->has_seed)
		r = file_is_new(n->seed, e);
	if (!r)
		r = base_check(c, n, e);
	if (r < 0)
		return r;
	signals_mask(SIG_BLOCK);
	r = disk_make(n, e);
	if (!r)
		r = seed_make(c, n, e);
	if (!r) {
		r = vm_define(c, n, e);
		if (r < 0 && n->sent && r != -EREMOTEIO) {
			fprintf(stderr, "warning: domain '%s' may exist, so its disk stays; see cairn list --all\n", n->name);
			return r;
		}
	}
	if (r < 0 && n->disk_made)
		unlink(n->disk);
	if (r < 0 && n->seed_made)
		unlink(n->seed);
	return r;
}

static int options_check(struct cli *c)
{
	const char *vcpus = option_value(c, "vcpus"), *format = option_value(c, "image-format");
	char *end;

	if (!option_value(c, "image"))
		return cli_usage(c, "give the disk image that the domain begins with: --image FILE");
	if (vcpus && (strtol(vcpus, &end, 10) < 1 || *end))
		return cli_usage(c, "--vcpus must be a number");
	if (format && strcmp(format, "raw") && strcmp(format, "qcow2"))
		return cli_usage(c, "--image-format must be raw or qcow2");
	return seed_options_check(c);
}

int verb_new(struct cli *c)
{
	CLEANUP_FREE struct new_vm *n = calloc(1, sizeof(*n));
	CLEANUP_JS struct json_object *answer = NULL;
	struct err e;
	int r = options_check(c);

	if (r)
		return r;
	r = n ? vm_make(c, n, &e) : err_set_errno(&e, -ENOMEM, "the domain");
	if (r < 0)
		r = cli_fail(&e, "Failed to create domain '%s'", c->pos[0]);
	else
		say("Domain '%s' defined with %s, over %s\n", n->name, n->disk, n->base);
	fflush(stdout);
	signals_mask(SIG_UNBLOCK);
	if (r || option_flag(c, "no-start"))
		return r;
	if (cli_execute(c, "vm-start", cli_vm_args(n->name), &answer, NULL, &e) < 0)
		return cli_fail(&e, "Domain '%s' is defined, but does not start", n->name);
	warnings_print(js_get_array(answer, "warnings"));
	say("Domain '%s' started\n", n->name);
	return CLI_OK;
}
