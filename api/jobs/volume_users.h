/* volume_users: the files that the definitions of VMs name, with their device and inode. A separate process examines
 * them, because one of them may be on a file system that hangs.
 * Threading: runs in a process of fork_as.h, without malloc() and locks. */
#ifndef CAIRN_API_JOBS_VOLUME_USERS_H
#define CAIRN_API_JOBS_VOLUME_USERS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

struct err;
struct vm;
struct vm_host;

/* VOLUME_NO_FORMAT: the user may not read the file, or its format is not known. */
enum volume_format { VOLUME_NO_FORMAT, VOLUME_RAW, VOLUME_QCOW2 };

struct volume_user {
	const char *path; /* borrowed of the definition */
	const struct vm *vm;
	enum volume_format format; /* as the VM uses the file; VOLUME_NO_FORMAT: it boots from the file */
	bool is_frozen; /* the VM is a template or has a saved state, or reads it as a backing file but not at a pin */
	bool found;
	dev_t dev;
	ino_t ino;
};

struct volume_users {
	struct volume_user *list; /* VM by VM */
	size_t n;
	size_t looked; /* the files before this one were looked at; below n: that one's file system does not answer */
};

/* A volume that may be one of the files. */
struct volume_id {
	/* They decide whether a file that was not found, or not looked at, is the volume. name: in the folder, or an
	 * absolute path. */
	const char *folder, *name;
	const struct stat *st;
};

/* Look at the files of all VMs, with the rights of this process. It takes at most some 20 s, and 6 s for a file
 * system that does not answer, which then keeps a process. The memory stays until the process ends. look: false: list
 * the files only. Returns 0 or -errno. */
int volume_users_find(const struct vm_host *host, bool look, struct volume_users *ret, struct err *e);
/* Check that all files were looked at. Returns 0; -ETIMEDOUT: the error names the first one that was not. */
int volume_users_check(const struct volume_users *u, struct err *e);
/* Return the format in which VMs use the volume; VOLUME_NO_FORMAT: none has it as a disk. */
enum volume_format volume_users_format(const struct volume_users *u, const struct volume_id *id);
/* Return the next VM that uses the volume; NULL: no more. disks: only those with a disk on it. *at: 0 at first. */
const struct vm *volume_users_next(const struct volume_users *u, const struct volume_id *id, bool disks, size_t *at);
/* Return a VM for whose sake the volume must not change (is_frozen); NULL: there is none. */
const struct vm *volume_users_frozen(const struct volume_users *u, const struct volume_id *id);

#define VOLUME_OPEN_BY "another process, such as qemu-img or a VM of another daemon; find it with: lslocks"
/* Return whether a process has the image open, such as QEMU, cairn-img, or a VM that this daemon does not know; false
 * also if this process may not read the file. */
bool volume_is_open(int dir, const char *path);

#endif
