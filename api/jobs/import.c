#include "api/jobs/import.h"
#include "api/access/authors.h"
#include "api/access/client_file.h"
#include "api/access/fork_as.h"
#include "api/access/groups.h"
#include "api/access/open_as.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/jobs/archiver.h"
#include "api/jobs/job.h"
#include "api/net/network.h"
#include "api/schema/call.h"
#include "api/store/store.h"
#include "api/vm/former_files.h"
#include "api/vm/identity.h"
#include "api/vm/owner_claim.h"
#include "api/vm/quota_use.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/machine_version.h"
#include "base/utf8.h"
#include "base/util.h"
#include "base/uuid.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOOK_TIMEOUT_NS (10 * 1000000000ULL)

struct import {
	struct vm_host *host;
	struct call *call; /* the client's call, until it is answered */
	const char *job_id; /* borrowed until the call is answered; NULL: generated */
	struct vm *vm;	   /* the new VM; NULL before it is defined */
	struct definition *def;	    /* of that VM, while its owner is being stored; owned */
	struct owner_claim *owners; /* owned; of a creator who imports; NULL: none */
	struct job *job;
	struct client_file *file;
	struct rights *rights;
	struct archiver *archiver;
	struct store_work work;
	char folder[PATH_MAX];	      /* parent of the VM's folder */
	char name[VM_NAME_MAX + 1];   /* empty: the archive's name */
	int64_t max_bytes;	      /* limit for the data and their space; 0: the file system's free space */
	uint64_t image_bytes;	      /* bytes of data that the VM's files have by the manifest */
	bool exceeds_quota;	      /* and `why` is set */
	char *seen;		      /* the archive's definition as read before unpacking, for import_ready() */
	struct json_object *warnings; /* array of sentences */
	struct json_object *increments; /* paths of further archives; NULL: none */
	struct err why; /* reason of the failure */
};

static void import_free(struct import *x)
{
	archiver_free(x->archiver);
	owner_claim_free(x->owners);
	definition_free(x->def);
	json_object_put(x->warnings);
	json_object_put(x->increments);
	free(x->rights);
	free(x->seen);
	client_file_free(x->file);
	free(x);
}

static int archiver_run(struct import *x, struct json_object *spec, const struct archiver_ops *ops,
	struct err *e)
{
	int relay = client_file_relay(x->file);

	js_put_int(spec, "input", ARCHIVER_FD);
	js_put_bool(spec, ARCHIVER_RELAYED, true);
	if (x->increments)
		js_put(spec, "increments", json_object_get(x->increments));
	return archiver_start(x->host->loop, x->host->paths->archive_program, "import", spec, &relay, 1,
		x->rights, ops, x, &x->archiver, e);
}

static char *definition_text(struct json_object *result)
{
	return strdup(json_object_to_json_string_ext(js_get(result, "definition"), JSON_C_TO_STRING_PLAIN));
}

/* ---- the end of the import ---- */

static void vm_drop(struct vm *vm)
{
	struct vm_host *host = vm->host;
	char name[VM_NAME_MAX + 1];
	uint8_t uuid[16];

	memcpy(name, vm->def->name, sizeof(name));
	memcpy(uuid, vm->def->uuid, sizeof(uuid));
	event_emit(&host->sink, EVENT_VM_UNDEFINED, name, uuid, NULL);
	vm_remove(vm);
	if (permissions_remove_vm(&host->permissions, uuid))
		permissions_store(&host->permissions, host->loop, host->store, NULL);
}

/* Undefine a VM that has no job: its job could not be created, or an earlier daemon began the import. */
static void vm_undefine(struct vm *vm)
{
	struct err e;

	if (store_remove(vm->host->store, vm->def->name, NULL, &e) < 0)
		log_error("import", "VM '%s' could not be removed: %s", vm->def->name, e.msg);
	else
		vm_drop(vm);
}

static void drop_when_done(struct job *j, void *opaque)
{
	(void)j;
	vm_drop(opaque);
}

/* Fail the job after the removal of the VM's state folder. If that removal failed, the definition is gone all the same,
 * and the next daemon removes the rest. */
static void folder_removed(struct store_work *work)
{
	struct import *x = container_of(work, struct import, work);

	if (work->r < 0)
		log_error("import", "VM '%s': %s", x->vm->def->name, work->e.msg);
	x->job->concluded = drop_when_done;
	x->job->concluded_opaque = x->vm;
	job_fail(x->job, &x->why);
}

/* Remove the VM from the store, then fail the job. The VM keeps its name until the job has concluded. */
static void import_fail(struct import *x)
{
	x->job->cancel = NULL;
	x->work = (struct store_work){ .loop = x->host->loop, .done = folder_removed };
	if (store_remove(x->host->store, x->vm->def->name, &x->work, &x->work.e) == 0)
		return;
	log_error("import", "VM '%s' could not be removed: %s", x->vm->def->name, x->work.e.msg);
	job_fail(x->job, &x->why);
}

static const char *any_file(const struct definition *def)
{
	for (uint32_t i = 0; i < def->ndisks; i++)
		if (def->disks[i].nlayers)
			return def->disks[i].layers[0].path;
	return def->kernel ? def->kernel : def->loader ? def->loader : def->initrd;
}

/* Return the content of IMPORTED_FILE: the folder of the VM's files. The caller owns it. NULL: the VM has no files. */
static struct json_object *folder_of(const struct definition *def)
{
	const char *file = any_file(def);
	struct json_object *o = file ? json_object_new_object() : NULL;
	char folder[PATH_MAX];

	if (!file)
		return NULL;
	snprintf(folder, sizeof(folder), "%.*s", (int)(strrchr(file, '/') - file), file);
	js_put_str(o, "folder", folder);
	return o;
}

/* Conclude the job with success, even if work->r reports an error of the store: the files are complete, and the next
 * daemon finds them. */
static void kept_for_good(struct store_work *work)
{
	struct import *x = container_of(work, struct import, work);
	struct json_object *o = json_object_new_object();

	if (work->r < 0)
		log_error("import", "VM '%s': %s", x->vm->def->name, work->e.msg);
	vm_set(x->vm, VM_FACT_INCOMPLETE, false);
	js_put_str(o, "name", x->vm->def->name);
	js_put_str(o, "folder", x->folder);
	js_put(o, "warnings", json_object_get(x->warnings));
	job_succeed(x->job, o);
}

static void folder_stored(struct store_work *work)
{
	struct import *x = container_of(work, struct import, work);
	int r = work->r;

	work->done = kept_for_good;
	if (!r) {
		r = store_remove_file(x->host->store, x->vm->def->name, IMPORT_MARKER, STORE_WITH_WORK, work, &work->e);
		if (!r)
			return; /* the store's thread uses x->work */
	}
	work->r = r;
	kept_for_good(work);
}

/* Store in IMPORTED_FILE that all files of the VM are in the folder that the import made. */
static void import_succeed(struct import *x)
{
	CLEANUP_JS struct json_object *o = folder_of(x->vm->def);
	int r = 0;

	x->work = (struct store_work){ .loop = x->host->loop, .done = folder_stored };
	if (o) {
		r = store_put(x->host->store, x->vm->def->name, IMPORTED_FILE, o, STORE_WITH_WORK, &x->work, &x->work.e);
		if (!r)
			return; /* the store's thread uses x->work */
	}
	x->work.r = r;
	folder_stored(&x->work);
}

/* ---- unpacking the archive ---- */

static void import_progress(void *opaque, uint64_t done, uint64_t total)
{
	struct import *x = opaque;

	job_progress(x->job, done, total);
}

/* Return the sum of the data that cairn-archive reports of the files: what the manifest says, or after unpacking what
 * they take, if that is more. */
static uint64_t files_bytes(struct json_object *files)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < json_object_array_length(files); i++)
		bytes = quota_sum(bytes, (uint64_t)MAX(js_get_int(json_object_array_get_idx(files, i), "data", 0), 0));
	return bytes;
}

/* Charge the quota with what the files take: scattered data take more than the manifest says. */
static void import_space(void *opaque, uint64_t bytes)
{
	struct import *x = opaque;
	uint64_t *made = &x->vm->counts.made_bytes;

	if (bytes <= *made || x->exceeds_quota)
		return;
	if (quota_check_more(x->vm, QUOTA_DISK, bytes - *made, &x->why) < 0) {
		x->exceeds_quota = true;
		archiver_cancel(x->archiver);
		return;
	}
	*made = MIN(bytes, (uint64_t)INT64_MAX);
	vm_save(x->vm);
}

static void import_ready(void *opaque, struct json_object *o)
{
	struct import *x = opaque;
	struct json_object *files = js_get_array(o, "files");
	CLEANUP_FREE char *text = definition_text(o);

	if (files)
		import_space(x, files_bytes(files));
	/* The archive may have changed since archive_inspected(): compare its definition. */
	if (text && !strcmp(text, x->seen) && !x->job->cancelling && !x->exceeds_quota)
		archiver_keep(x->archiver);
	else
		archiver_cancel(x->archiver);
}

/* Start cairn-archive to remove .NAME.importing, the folder of an import that was not completed. folder: its parent.
 * name: NAME. rights: of the user who imported. */
static int clear_start(const struct vm *vm, const struct rights *rights, const char *folder, const char *name,
	const struct archiver_ops *ops, void *opaque, struct archiver **ret, struct err *e)
{
	CLEANUP_JS struct json_object *spec = json_object_new_object();
	const struct vm_host *host = vm->host;

	js_put_str(spec, "folder", folder);
	js_put_str(spec, "name", name);
	return archiver_start(host->loop, host->paths->archive_program, "clear", spec, NULL, 0, rights, ops, opaque, ret, e);
}

static void leftovers_cleared(void *opaque, int r, struct json_object *result, const struct err *e)
{
	struct import *x = opaque;

	(void)result;
	if (r < 0)
		log_warn("import", "VM '%s': some files of its import may remain: %s", x->vm->def->name, e->msg);
	import_fail(x);
}

static const struct archiver_ops clear_ops = { .done = leftovers_cleared };

/* Fail the import because unpacking failed: first remove the files that a killed process has left, then the VM. */
static void not_taken(struct import *x, const struct err *e)
{
	struct err own;
	int r;

	if (!x->exceeds_quota)
		x->why = *e;
	x->job->cancel = NULL;
	archiver_free(x->archiver);
	x->archiver = NULL;
	r = clear_start(x->vm, x->rights, x->folder, x->vm->def->name, &clear_ops, x, &x->archiver, &own);
	if (r < 0)
		leftovers_cleared(x, r, NULL, &own);
}

static void archive_taken(void *opaque, int r, struct json_object *result, const struct err *e)
{
	struct import *x = opaque;

	(void)result;
	if (r < 0)
		not_taken(x, e);
	else
		import_succeed(x);
}

static const struct archiver_ops take_ops = { .progress = import_progress, .space = import_space, .ready = import_ready,
	.done = archive_taken };

static void import_cancel(struct job *j)
{
	struct import *x = j->opaque;

	archiver_cancel(x->archiver);
}

static void import_release(struct job *j)
{
	import_free(j->opaque);
}

static int take_start(struct import *x, struct err *e)
{
	CLEANUP_JS struct json_object *spec = json_object_new_object();

	js_put_str(spec, "folder", x->folder);
	js_put_str(spec, "name", x->vm->def->name);
	/* The archive may have changed since its manifest was read. */
	js_put_uint(spec, "max_bytes", x->max_bytes ? MIN((uint64_t)x->max_bytes, x->image_bytes) : x->image_bytes);
	js_put_int(spec, "max_space", x->max_bytes ? x->max_bytes : INT64_MAX);
	return archiver_run(x, spec, &take_ops, e);
}

/* ---- defining the VM ---- */

/* If another VM has the definition's uuid or one of its MAC addresses, or a creator imports, remove the uuid and all
 * MAC addresses, so that the caller generates new ones. */
static int identity_make(struct import *x, struct json_object *o, struct definition **d, struct err *e)
{
	struct json_object *list = js_get_array(o, "interfaces");

	if (x->owners || vm_find_uuid(x->host, (*d)->uuid) || identity_complete(x->host, *d, NULL, e) < 0) {
		json_object_object_del(o, "uuid");
		for (size_t i = 0; list && i < json_object_array_length(list); i++)
			json_object_object_del(json_object_array_get_idx(list, i), "mac");
		definition_free(*d);
		*d = NULL;
		return definition_parse(o, NULL, d, e);
	}
	return 0;
}

/* Return whether the archive has the file, with the format (NULL: any) in its manifest. */
static bool file_is_there(struct json_object *files, const char *folder, const char *path, const char *format)
{
	size_t n = strlen(folder);

	for (size_t i = 0; i < json_object_array_length(files); i++) {
		struct json_object *f = json_object_array_get_idx(files, i);
		const char *name = js_get_str(f, "name"), *of = js_get_str(f, "format");

		if (name && !strncmp(path, folder, n) && path[n] == '/' && !strcmp(path + n + 1, name))
			return !format || (of && !strcmp(of, format));
	}
	return false;
}

/* Check that the definition names only files from the archive, none of this host, and the formats of images as the
 * manifest does: cairn-archive has checked the headers only of those that are qcow2 there. */
static int paths_check(const struct definition *d, struct json_object *files, const char *folder,
	struct err *e)
{
	bool ok = (!d->kernel || file_is_there(files, folder, d->kernel, NULL)) &&
		(!d->initrd || file_is_there(files, folder, d->initrd, NULL)) &&
		(!d->loader || file_is_there(files, folder, d->loader, NULL)) &&
		(!d->nvram_template || file_is_there(files, folder, d->nvram_template, NULL));

	for (uint32_t i = 0; i < d->ndisks; i++)
		for (unsigned k = 0; k < d->disks[i].nlayers; k++) {
			const struct definition_layer *y = &d->disks[i].layers[k];

			ok = ok && file_is_there(files, folder, y->path, definition_format_name(y->format)) &&
				(!y->data_file || file_is_there(files, folder, y->data_file, "raw"));
		}
	return ok ? 0 : err_set(e, -EINVAL, ERR_CORRUPT,
		"the archive's definition names a file that the archive lacks, or has in another format; cairn did not write this archive");
}

static int name_decide(struct import *x, struct json_object *o, struct err *e)
{
	const char *own = js_get_str(o, "name");
	int r;

	if (!x->name[0])
		snprintf(x->name, sizeof(x->name), "%s", own ? own : "");
	js_put_str(o, "name", x->name);
	r = definition_check_name(x->name, e);
	if (r < 0)
		err_prefix(e, "name");
	if (!r && vm_find(x->host, x->name))
		r = err_set(e, -EEXIST, ERR_EXISTS,
			"there is a VM '%s' already; give the new one another name with --name", x->name);
	return r;
}

/* ---- the archive may be a stranger's, so its guest gets no way into this host ---- */

static __attribute__((format(printf, 2, 3))) void warn(struct import *x, const char *fmt, ...)
{
	char text[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	utf8_clean(text); /* a path may be cut */
	json_object_array_add(x->warnings, json_object_new_string(text));
}

/* Services on the host's loopback address trust local users. */
static void loopback_close(struct import *x, struct definition *d)
{
	for (unsigned i = 0; i < d->ninterfaces; i++) {
		if (!d->interfaces[i].user.host_loopback)
			continue;
		d->interfaces[i].user.host_loopback = false;
		warn(x, "interface %s: host_loopback is set to false, because it lets the guest reach services on this host's loopback address; to "
			"allow that, use cairn edit", d->interfaces[i].id);
	}
}

/* The guest would read and write the importing user's files. */
static void shares_drop(struct import *x, struct definition *d)
{
	while (d->nshares) {
		struct definition_share *s = &d->shares[--d->nshares];

		warn(x, "share %s: is left out, because it gives the guest this host's folder %.300s; to allow that, add it with cairn edit", s->tag,
			s->path);
		free(s->path);
		free(s->tag);
		*s = (struct definition_share){ 0 };
	}
}

/* Let the VM's sockets be in its own folder, or nowhere. */
static void sockets_move(struct import *x, struct definition *d, const char *own)
{
	char path[PATH_MAX + VM_NAME_MAX + 8];
	int n = snprintf(path, sizeof(path), "%s/%s.vnc", own, d->name);

	if (d->vsock_path)
		warn(x, "vsock: the socket %.300s is left out; to have one, use cairn edit", d->vsock_path);
	free(STEAL_PTR(d->vsock_path));
	if (!d->vnc.on || (d->vnc.path && !strcmp(d->vnc.path, path)))
		return;
	free(d->vnc.path);
	free(d->vnc.password_file);
	d->vnc = (struct definition_vnc){ .on = n <= DEFINITION_VSOCK_PATH_MAX };
	if (d->vnc.on)
		d->vnc.path = must_alloc(strdup(path));
	warn(x, d->vnc.on ? "vnc: the socket for clients is %.300s now; to change that, use cairn edit" :
		"vnc: is left out, because the socket's path %.300s is too long; to have one, use cairn edit", path);
}

static int import_define(struct import *x, struct json_object *result, struct definition **ret_d, struct err *e)
{
	struct definition *d CLEANUP(definition_free_p) = NULL;
	struct json_object *o = js_get(result, "definition"), *files = js_get_array(result, "files");
	char own[PATH_MAX];
	int r;

	/* The process runs with the user's rights, so its messages are untrusted. */
	if (!json_object_is_type(o, json_type_object) || !files)
		return err_set(e, -EINVAL, ERR_CORRUPT, "cairn-archive did not report the content of the archive");
	r = name_decide(x, o, e);
	if (r < 0)
		return r;
	if (snprintf(own, sizeof(own), "%s/%s", x->folder, x->name) >= (int)sizeof(own))
		return err_set_errno(e, -ENAMETOOLONG, "%s", x->folder);
	r = definition_parse(o, own, &d, e);
	if (r < 0) {
		err_prefix(e, "the archive's definition");
		return r;
	}
	if (!d->machine) /* a Cairn from before this key made the archive */
		d->machine = (uint16_t)machine_version_unnamed(d->firmware);
	x->warnings = json_object_new_array();
	loopback_close(x, d);
	shares_drop(x, d);
	sockets_move(x, d, own);
	/* Other users do not learn which networks exist. */
	if (call_role_for(x->call, NULL) >= ROLE_VIEWER)
		network_warn_missing(x->host, d, x->warnings);
	r = paths_check(d, files, own, e);
	if (!r) {
		CLEANUP_JS struct json_object *absolute = definition_to_json(d);

		r = identity_make(x, absolute, &d, e);
	}
	if (!r && !uuid_is_set(d->uuid))
		r = uuid_make(d->uuid, e);
	if (!r)
		r = owner_claim_add(x->owners, d, e);
	if (!r)
		r = identity_complete(x->host, d, NULL, e);
	if (!r && rights_copy(x->rights, &d->rights) < 0)
		r = err_set_errno(e, -ENOMEM, "import");
	x->image_bytes = files_bytes(files);
	if (!r)
		r = quota_check_new(x->host, d, &(struct quota_new){ .n = 1, .image_bytes = x->image_bytes }, e);
	if (!r)
		*ret_d = STEAL_PTR(d);
	return r;
}

/* Define the VM, with IMPORT_MARKER in its state folder. */
static int vm_define_new(struct import *x, struct err *e)
{
	struct definition *d = STEAL_PTR(x->def);
	CLEANUP_JS struct json_object *o = definition_to_json(d);
	int r;

	authors_put(o, d);
	r = store_save_definition_soon(x->host->store, d->name, o, true, IMPORT_MARKER, e);
	if (!r) {
		r = vm_add(x->host, d, &x->vm);
		if (r < 0) {
			store_remove(x->host->store, d->name, NULL, NULL);
			err_set_errno(e, r, "VM '%s'", d->name);
		}
	}
	if (r < 0) {
		definition_free(d);
		return r;
	}
	owner_claim_give(x->owners, d->uuid);
	x->vm->counts.made_bytes = x->image_bytes;
	vm_save(x->vm);
	vm_emit(x->vm, EVENT_VM_DEFINED, NULL);
	return 0;
}

static int job_begin(struct import *x, struct err *e)
{
	int r = job_new(x->vm, "import", x->job_id, &x->job, e);

	if (r < 0) {
		vm_undefine(x->vm);
		return r;
	}
	vm_set(x->vm, VM_FACT_INCOMPLETE, true);
	x->job->opaque = x;
	x->job->release = import_release;
	x->job->cancel = import_cancel;
	return 0;
}

/* ---- reading the definition before unpacking ---- */

static void import_refuse(struct import *x, const struct err *e)
{
	call_fail(x->call, e);
	import_free(x);
}

/* Answer the call and start to unpack. An error fails the job. */
static void import_start(struct import *x)
{
	call_return_job(x->call, x->job);
	x->call = NULL;
	x->job_id = NULL;
	if (take_start(x, &x->why) < 0)
		import_fail(x);
}

static void import_go(struct import *x)
{
	struct err e;
	int r = vm_define_new(x, &e);

	owner_claim_free(STEAL_PTR(x->owners));
	if (!r)
		r = job_begin(x, &e);
	if (r < 0) {
		import_refuse(x, &e);
		return;
	}
	archiver_free(x->archiver);
	x->archiver = NULL;
	import_start(x);
}

/* The definition's names may have been taken while the owner was being stored. */
static void owner_stored(void *opaque, int r, const struct err *e)
{
	struct import *x = opaque;
	struct err own;

	if (!r) {
		r = creator_check(x->call, &own);
		e = &own;
	}
	if (!r && vm_find(x->host, x->def->name))
		r = err_set(&own, -EEXIST, ERR_EXISTS, "there is a VM '%s' already", x->def->name);
	if (!r)
		r = identity_complete(x->host, x->def, NULL, &own);
	if (!r)
		r = quota_check_new(x->host, x->def, &(struct quota_new){ .n = 1, .image_bytes = x->image_bytes }, &own);
	if (r < 0)
		import_refuse(x, e);
	else
		import_go(x);
}

static void archive_inspected(void *opaque, int r, struct json_object *result, const struct err *e)
{
	struct import *x = opaque;
	struct err own;

	if (r < 0) {
		import_refuse(x, e);
		return;
	}
	x->seen = definition_text(result);
	r = creator_check(x->call, &own);
	if (!r) {
		x->owners = owner_claim_new(x->call);
		r = x->seen ? import_define(x, result, &x->def, &own) : err_set_errno(&own, -ENOMEM, "import");
	}
	if (r < 0)
		import_refuse(x, &own);
	else if (x->owners)
		owner_claim_store(x->owners, owner_stored, x);
	else
		import_go(x);
}

static const struct archiver_ops look_ops = { .done = archive_inspected };

int import_begin(struct vm_host *host, const struct import_opts *opts, struct client_file *file, struct rights *rights, struct call *c,
	struct err *e)
{
	CLEANUP_JS struct json_object *spec = json_object_new_object();
	struct import *x = must_alloc(calloc(1, sizeof(*x)));
	int r;

	*x = (struct import){ .host = host, .call = c, .job_id = opts->job_id, .file = file, .rights = rights,
		.max_bytes = opts->max_bytes, .increments = json_object_get(opts->increments) };
	snprintf(x->folder, sizeof(x->folder), "%s", opts->folder);
	snprintf(x->name, sizeof(x->name), "%s", opts->name ? opts->name : "");
	js_put_bool(spec, "manifest_only", true);
	r = archiver_run(x, spec, &look_ops, e);
	if (r < 0)
		import_free(x);
	return r;
}

/* ---- recovery by the next daemon ---- */

static void keep_at_start(struct vm *vm)
{
	CLEANUP_JS struct json_object *o = folder_of(vm->def);
	struct store *s = vm->host->store;
	struct err e;
	int r = o ? store_put(s, vm->def->name, IMPORTED_FILE, o, STORE_NOW, NULL, &e) : 0;

	if (!r)
		r = store_remove_marker(s, vm->def->name, IMPORT_MARKER, &e);
	if (r < 0)
		log_error("import", "VM '%s': %s", vm->def->name, e.msg);
}

/* Ends an import that an earlier daemon began. First it checks whether all files exist, since that daemon may have
 * called archiver_keep() before it ended. Files that are older than the import are not its own: a folder of that name
 * was there, and the import would have failed. If a file is missing, it removes the import's files and looks again:
 * the old cairn-archive, which may outlive that daemon, may have given the folder its final name meanwhile. It
 * removes the files before the VM, because only the VM's definition names them. */
struct clearing {
	struct vm *vm; /* VM_FACT_INCOMPLETE is set, so nobody else removes the VM */
	struct archiver *archiver; /* NULL: the start failed, or has to wait for the user's groups */
	struct groups_ask *ask;
	struct fork_as *look;
	bool cleared;
	char parent[PATH_MAX], name[VM_NAME_MAX + 1]; /* of the folder */
};

static void found_check(struct clearing *x);

static void found_cleared(void *opaque, int r, struct json_object *result, const struct err *e)
{
	struct clearing *x = opaque;

	(void)result;
	if (r < 0)
		log_warn("import", "VM '%s': some files of its import may remain: %s", x->vm->def->name, e->msg);
	archiver_free(x->archiver);
	x->archiver = NULL;
	x->cleared = true;
	found_check(x);
}

static const struct archiver_ops found_ops = { .done = found_cleared };

/* note: of no use, because cairn-archive's errors do not name the user. */
static void clear_with(void *opaque, const struct rights *rights, const char *note)
{
	struct clearing *x = opaque;
	struct err e;
	int r = clear_start(x->vm, rights, x->parent, x->name, &found_ops, x, &x->archiver, &e);

	(void)note;
	if (r < 0)
		found_cleared(x, r, NULL, &e);
}

static void found_clear(struct clearing *x)
{
	struct vm *vm = x->vm;

	if (vm->def->rights)
		groups_ask(helpers_groups(vm->host->helpers), vm->def->rights, clear_with, x, &x->ask);
	else
		clear_with(x, NULL, "");
}

/* Return whether the look failed, so that the error does not tell whether the files exist. */
static bool is_unknown(int r)
{
	return r == -ETIMEDOUT || r == -EBUSY || r == -EAGAIN || r == -ENOMEM || r == -EMFILE || r == -ENFILE;
}

static void found_checked(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct clearing *x = opaque;
	struct vm *vm = x->vm;

	(void)res;
	if (r < 0 && !is_unknown(r) && !x->cleared) {
		found_clear(x);
		return;
	}
	free(x);
	if (!r) {
		keep_at_start(vm);
		vm_set(vm, VM_FACT_INCOMPLETE, false);
	} else if (is_unknown(r)) {
		log_error("import", "VM '%s': its import was interrupted, and whether its files are complete is not known: %s. Repair "
			"or unmount that file system, then restart cairnd", vm->def->name, e->msg);
	} else {
		log_warn("import", "VM '%s': its import was interrupted, so the VM is removed; import it again", vm->def->name);
		vm_undefine(vm);
	}
}

/* A file of the definition, and when the import began. */
struct found_file {
	char path[PATH_MAX];
	uint64_t begun_ns;
};

/* Runs in the forked process. */
static int found_is_own(const void *arg, struct fork_as_result *out, struct err *e)
{
	const struct found_file *f = arg;

	(void)out;
	return file_is_older(f->path, f->begun_ns) ?
		err_set(e, -EEXIST, ERR_EXISTS, "%s is older than the import", f->path) : 0;
}

static void found_dated(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct clearing *x = opaque;
	struct err own;

	if (!r) {
		r = open_as_check(x->vm->host->helpers, x->vm->def, NULL, 0, found_checked, x, &own);
		if (!r)
			return; /* found_checked() continues */
		e = &own;
	}
	found_checked(x, r, res, e);
}

/* Look for the files in a helper process, because their file system may hang. */
static void found_check(struct clearing *x)
{
	struct vm *vm = x->vm;
	const char *file = any_file(vm->def);
	struct found_file f = { .begun_ns = store_file_time(vm->host->store, vm->def->name, IMPORT_MARKER) };
	struct fork_as_spec s = { .rights = vm->def->rights, .run = found_is_own, .arg = &f, .what = "looking for its files",
		.timeout_ns = LOOK_TIMEOUT_NS, .done = found_dated, .opaque = x };
	struct err e;
	int r;

	snprintf(f.path, sizeof(f.path), "%s", file ? file : "");
	r = fork_as_begin(vm->host->helpers, &s, &x->look, &e);
	if (r < 0)
		found_checked(x, r, NULL, &e);
}

static void import_end(struct vm *vm)
{
	CLEANUP_JS struct json_object *own = folder_of(vm->def);
	const char *folder = js_get_str(own, "folder"), *name = folder ? strrchr(folder, '/') : NULL;
	struct clearing *x = must_alloc(calloc(1, sizeof(*x)));

	x->vm = vm;
	vm_set(vm, VM_FACT_INCOMPLETE, true);
	if (name)
		snprintf(x->parent, sizeof(x->parent), "%.*s", (int)MAX(name - folder, 1), folder);
	snprintf(x->name, sizeof(x->name), "%s", name ? name + 1 : "");
	found_check(x);
}

void import_clear_up(struct vm_host *host)
{
	for (size_t i = host->nvms; i-- > 0;)
		if (store_has_file(host->store, host->vms[i]->def->name, IMPORT_MARKER))
			import_end(host->vms[i]);
}
