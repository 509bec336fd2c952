/* complete: the shell's completion. It asks `cairn complete`, as the completion of other shells does. */
#ifndef CAIRN_TOOLS_SHELL_COMPLETE_H
#define CAIRN_TOOLS_SHELL_COMPLETE_H

/* Both are borrowed. socket: "": cairn's own choice. */
void complete_begin(const char *cairn, const char *socket);

#endif
