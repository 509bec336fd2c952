/* import: the job that creates a VM from an archive. It first reads the definition, then unpacks and checks everything
 * into a folder, which gets its final name as the last step.
 *
 * The VM is defined from the start and marked as incomplete, so that the next daemon finishes the job: if the folder
 * has its final name, it is complete and the VM stays; else the VM is removed. */
#ifndef CAIRN_API_JOBS_IMPORT_H
#define CAIRN_API_JOBS_IMPORT_H

#define IMPORT_MARKER "import.pending"
#define IMPORTED_FILE "imported.json" /* names the folder that the import made */

struct call;
struct vm_host;

/* Handle vm-import. Answers the call. */
void import_begin(struct call *c);
/* Finish or remove the imports that an earlier daemon left. */
void import_clear_up(struct vm_host *host);

#endif
