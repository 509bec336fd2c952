/* import: a VM out of an archive of export's, as a job: first a look at what it says it is, then
 * all of it, checked, into a folder of its own, which gets its name as the last step.
 *
 * The VM is there from the beginning, marked: the next daemon ends what this one began. If the
 * folder has its name all is in it, and the VM stays; else it is forgotten. */
#ifndef CAIRN_API_JOBS_IMPORT_H
#define CAIRN_API_JOBS_IMPORT_H

#define IMPORT_MARKER "import.pending"
#define IMPORTED_FILE "imported.json" /* which folder was made for its files */

struct call;
struct vm_host;

/* Answers it. */
void import_begin(struct call *c);
/* What an earlier daemon left. */
void import_clear_up(struct vm_host *host);

#endif
