/* complete: the shell's completion of verbs, options, their values, VMs and files. It asks cairn (`cairn help --names`,
 * `cairn list --name`), as bash's completion does. */
#ifndef CAIRN_TOOLS_SHELL_COMPLETE_H
#define CAIRN_TOOLS_SHELL_COMPLETE_H

/* Both are borrowed. socket: "": cairn's own choice. */
void complete_begin(const char *cairn, const char *socket);

#endif
