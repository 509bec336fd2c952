/* pivot: chooses between a disk of a running VM and its copy, for blockcopy, blockjob and blockcommit (blockcopy.c).
 * The VM and the disk are the verb's positionals. */
#ifndef CAIRN_TOOLS_VERBS_PIVOT_H
#define CAIRN_TOOLS_VERBS_PIVOT_H

struct cli;
struct err;

/* Switch to the copy, in the VM and in its definition. If the copy is a layer of the disk, its backing files stay
 * those of the disk. path: absolute. Returns 0 or -errno. */
int pivot_to(struct cli *c, const char *path, const char *format, struct err *e);
/* Return the format that the file's name stands for: static. */
const char *pivot_format(const char *path);
/* Check the option --dest-format. Returns 0 or the exit code. */
int pivot_check_format(const struct cli *c);
/* Keep the disk and cancel the copy. */
int pivot_abort(struct cli *c, struct err *e);

#endif
