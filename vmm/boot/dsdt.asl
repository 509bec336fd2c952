/*
 * The DSDT of a Cairn machine. Addresses: vmm/kvm/memory.h (windows), devices/acpi_pm.h
 * (power management ports), devices/pci/pci.h (which IOAPIC pin a slot's INTx uses).
 * With BIOS defined, for a machine whose firmware places the PCI BARs and has the memory below 1 MiB. With UEFI
 * defined as well, that firmware also places ECAM: at 0xB0000000 with BARs above it, or at 0xE0000000 with BARs below
 * it, by its version.
 * With NO_HOTPLUG defined, for machine version 1. With SLOTS_APPENDED defined, for the machine versions from 7 on: the
 * slots and the event's method follow this table's content (vmm/boot/slots_aml.h).
 */
DefinitionBlock ("dsdt.aml", "DSDT", 2, "CAIRN ", "CAIRNVM ", 1)
{
    /* PM1a_CNT.SLP_TYP for S5, as devices/acpi_pm.c expects it. */
    Name (\_S5, Package () { 5, 5, 0, 0 })

    Scope (\_SB)
    {
        Device (PCI0)
        {
            Name (_HID, EisaId ("PNP0A08"))
            Name (_CID, EisaId ("PNP0A03"))
            Name (_BBN, 0)
            Name (_UID, 0)
            Name (_CCA, 1)
            Name (_CRS, ResourceTemplate ()
            {
                WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
                    0, 0, 0, 0, 1)
                IO (Decode16, 0x0CF8, 0x0CF8, 1, 8)
                WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
                    0, 0x1000, 0xFFFF, 0, 0xF000)
#ifdef UEFI
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed,
                    NonCacheable, ReadWrite,
                    0, 0x80000000, 0xAFFFFFFF, 0, 0x30000000)
#endif
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed,
                    NonCacheable, ReadWrite,
                    0, 0xC0000000, 0xDFFFFFFF, 0, 0x20000000)
#ifdef UEFI
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed,
                    NonCacheable, ReadWrite,
                    0, 0xF0000000, 0xFBFFFFFF, 0, 0x0C000000)
#else
#ifdef BIOS
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed,
                    NonCacheable, ReadWrite,
                    0, 0xE0100000, 0xFEBFFFFF, 0, 0x1EB00000)
#endif
#endif
            })

            /* Slot s, any pin: GSI 16 + s mod 8. */
            Name (_PRT, Package ()
            {
                Package () { 0x0000FFFF, 0, 0, 16 }, Package () { 0x0001FFFF, 0, 0, 17 },
                Package () { 0x0002FFFF, 0, 0, 18 }, Package () { 0x0003FFFF, 0, 0, 19 },
                Package () { 0x0004FFFF, 0, 0, 20 }, Package () { 0x0005FFFF, 0, 0, 21 },
                Package () { 0x0006FFFF, 0, 0, 22 }, Package () { 0x0007FFFF, 0, 0, 23 },
                Package () { 0x0008FFFF, 0, 0, 16 }, Package () { 0x0009FFFF, 0, 0, 17 },
                Package () { 0x000AFFFF, 0, 0, 18 }, Package () { 0x000BFFFF, 0, 0, 19 },
                Package () { 0x000CFFFF, 0, 0, 20 }, Package () { 0x000DFFFF, 0, 0, 21 },
                Package () { 0x000EFFFF, 0, 0, 22 }, Package () { 0x000FFFFF, 0, 0, 23 },
                Package () { 0x0010FFFF, 0, 0, 16 }, Package () { 0x0011FFFF, 0, 0, 17 },
                Package () { 0x0012FFFF, 0, 0, 18 }, Package () { 0x0013FFFF, 0, 0, 19 },
                Package () { 0x0014FFFF, 0, 0, 20 }, Package () { 0x0015FFFF, 0, 0, 21 },
                Package () { 0x0016FFFF, 0, 0, 22 }, Package () { 0x0017FFFF, 0, 0, 23 },
                Package () { 0x0018FFFF, 0, 0, 16 }, Package () { 0x0019FFFF, 0, 0, 17 },
                Package () { 0x001AFFFF, 0, 0, 18 }, Package () { 0x001BFFFF, 0, 0, 19 },
                Package () { 0x001CFFFF, 0, 0, 20 }, Package () { 0x001DFFFF, 0, 0, 21 },
                Package () { 0x001EFFFF, 0, 0, 22 }, Package () { 0x001FFFFF, 0, 0, 23 }
            })

            /*
             * Hot-plug: the registers and slots of devices/pci/pci_hotplug.h. Where KVM emulates
             * kernel mode, Linux takes about 70 ms of processor time for each of these devices at its start.
             * STAT takes a status other than success, of a notification of type 3 (release) or of the guest's own release.
             */
#ifndef NO_HOTPLUG
            OperationRegion (HPRG, SystemIO, 0xAE00, 0x10)
            Field (HPRG, DWordAcc, NoLock, WriteAsZeros)
            {
                PLUG, 32,
                ASKD, 32,
                RELD, 32,
                STAS, 32
            }
            Method (EJEC, 1)
            {
                RELD = 1 << Arg0
            }
            Method (STAT, 3)
            {
                If (((Arg1 & 0xFF) == 3) && (Arg2 & 0xFF))
                {
                    STAS = (Arg0 << 24) | (Arg2 & 0xFF)
                }
            }
#ifndef SLOTS_APPENDED
            Device (S18)
            {
                Name (_ADR, 0x00180000)
                Method (_EJ0, 1) { EJEC (24) }
                Method (_OST, 3) { STAT (24, Arg0, Arg1) }
            }
            Device (S19)
            {
                Name (_ADR, 0x00190000)
                Method (_EJ0, 1) { EJEC (25) }
                Method (_OST, 3) { STAT (25, Arg0, Arg1) }
            }
            Device (S1A)
            {
                Name (_ADR, 0x001A0000)
                Method (_EJ0, 1) { EJEC (26) }
                Method (_OST, 3) { STAT (26, Arg0, Arg1) }
            }
            Device (S1B)
            {
                Name (_ADR, 0x001B0000)
                Method (_EJ0, 1) { EJEC (27) }
                Method (_OST, 3) { STAT (27, Arg0, Arg1) }
            }
            Device (S1C)
            {
                Name (_ADR, 0x001C0000)
                Method (_EJ0, 1) { EJEC (28) }
                Method (_OST, 3) { STAT (28, Arg0, Arg1) }
            }
            Device (S1D)
            {
                Name (_ADR, 0x001D0000)
                Method (_EJ0, 1) { EJEC (29) }
                Method (_OST, 3) { STAT (29, Arg0, Arg1) }
            }
            Device (S1E)
            {
                Name (_ADR, 0x001E0000)
                Method (_EJ0, 1) { EJEC (30) }
                Method (_OST, 3) { STAT (30, Arg0, Arg1) }
            }
#ifndef UEFI /* the ICH9 bridge is there */
            Device (S1F)
            {
                Name (_ADR, 0x001F0000)
                Method (_EJ0, 1) { EJEC (31) }
                Method (_OST, 3) { STAT (31, Arg0, Arg1) }
            }
#endif
            Method (TELL, 2)
            {
                If (Arg0 & 0x01000000) { Notify (S18, Arg1) }
                If (Arg0 & 0x02000000) { Notify (S19, Arg1) }
                If (Arg0 & 0x04000000) { Notify (S1A, Arg1) }
                If (Arg0 & 0x08000000) { Notify (S1B, Arg1) }
                If (Arg0 & 0x10000000) { Notify (S1C, Arg1) }
                If (Arg0 & 0x20000000) { Notify (S1D, Arg1) }
                If (Arg0 & 0x40000000) { Notify (S1E, Arg1) }
#ifndef UEFI
                If (Arg0 & 0x80000000) { Notify (S1F, Arg1) }
#endif
            }
#endif
#endif
        }

        /* Linux trusts MCFG only when a device claims the ECAM window. */
        Device (MBRD)
        {
            Name (_HID, EisaId ("PNP0C02"))
            Name (_UID, 1)
            Name (_CRS, ResourceTemplate ()
            {
#ifndef UEFI
                Memory32Fixed (ReadWrite, 0xE0000000, 0x00100000)
#endif
#ifndef NO_HOTPLUG
                IO (Decode16, 0xAE00, 0xAE00, 1, 0x10)
#endif
            })
        }

        Device (COM1)
        {
            Name (_HID, EisaId ("PNP0501"))
            Name (_UID, 1)
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x03F8, 0x03F8, 0, 8)
                IRQNoFlags () { 4 }
            })
        }

        Device (RTC0)
        {
            Name (_HID, EisaId ("PNP0B00"))
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x0070, 0x0070, 0, 2)
                IRQNoFlags () { 8 }
            })
        }

        Device (PEVT)
        {
            Name (_HID, "QEMU0001")
            Name (_STA, 0x0F)
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x0505, 0x0505, 1, 1)
            })
        }

        /* The generation ID lies at VMGENID_GPA (devices/vmgenid.h). */
        Device (VGEN)
        {
            Name (_HID, "CARN0001")
            Name (_CID, "VM_Gen_Counter")
            Name (_DDN, "VM_Gen_Counter")
#ifdef BIOS
            Name (ADDR, Package () { 0x000AF000, 0 })
#else
            Name (ADDR, Package () { 0x000FF000, 0 })
#endif
        }
    }

    Scope (\_GPE)
    {
#ifndef NO_HOTPLUG
#ifndef SLOTS_APPENDED
        Method (_E01)
        {
            \_SB.PCI0.TELL (\_SB.PCI0.PLUG, 1)
            \_SB.PCI0.TELL (\_SB.PCI0.ASKD, 3)
        }
#endif
#endif
        Method (_E05)
        {
            Notify (\_SB.VGEN, 0x80)
        }
    }
}
