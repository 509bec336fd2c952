/* machine_pci: the PCI bus as its guest has configured it, for clients.
 *
 * Threading: main thread. */
#ifndef CAIRN_VMM_MACHINE_MACHINE_PCI_H
#define CAIRN_VMM_MACHINE_MACHINE_PCI_H

struct machine;
struct vm_pci;

void machine_pci_list(struct machine *m, struct vm_pci *ret);

#endif
