/* pass: passes bytes between two stream sockets. Any thread. */
#ifndef CAIRN_TOOLS_DELEGATE_PASS_H
#define CAIRN_TOOLS_DELEGATE_PASS_H

/* Pass bytes in both directions until one side has ended, and the other has received the bytes before. */
void bytes_pass(int a, int b);

#endif
