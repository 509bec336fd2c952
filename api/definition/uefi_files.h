/* uefi_files: the UEFI of a new VM whose definition names none. As libvirt, Cairn takes the first firmware descriptor
 * of the host that fits, by the names of the files in both folders; a file of the first folder hides one of the same
 * name in the second.
 * Format: QEMU, docs/interop/firmware.json. */
#ifndef CAIRN_API_DEFINITION_UEFI_FILES_H
#define CAIRN_API_DEFINITION_UEFI_FILES_H

#include <limits.h>

struct definition;
struct err;

#define UEFI_FOLDERS 2
extern const char *const uefi_folders[UEFI_FOLDERS];

struct uefi_files {
	char code[PATH_MAX]; /* boot.loader */
	char vars[PATH_MAX]; /* boot.nvram_template */
};

/* Read the descriptors. Without any for UEFI, the files are those of Debian's package ovmf, which may be
 * absent. Damaged descriptors are skipped.
 * Returns 0; -ENOTSUP: all descriptors for UEFI need system management mode. */
int uefi_files_find(const char *const folders[UEFI_FOLDERS], struct uefi_files *ret, struct err *e);
/* Check that no descriptor says of the file `code` that it needs system management mode. Returns 0; -ENOTSUP. */
int uefi_files_check(const char *const folders[UEFI_FOLDERS], const char *code, struct err *e);

/* Name the UEFI of a definition that a user has written and that names none, unless it is Debian's: the one of `old`,
 * the definition that it replaces (NULL: none), or the host's first. Refuse one that cannot run.
 * Returns 0; -ENOTSUP. */
int uefi_choose(const char *const folders[UEFI_FOLDERS], struct definition *d, const struct definition *old, struct err *e);

#endif
