/*
 * The DSDT of a Cairn machine. Addresses: vmm/kvm/memory.h (windows), devices/acpi_pm.h
 * (power management ports), devices/pci/pci.h (which IOAPIC pin a slot's INTx uses).
 * With BIOS defined, for a machine whose BIOS places the PCI BARs and has the memory below 1 MiB.
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
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed,
                    NonCacheable, ReadWrite,
                    0, 0xC0000000, 0xDFFFFFFF, 0, 0x20000000)
#ifdef BIOS
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed,
                    NonCacheable, ReadWrite,
                    0, 0xE0100000, 0xFEBFFFFF, 0, 0x1EB00000)
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

            /* Hot-plug: the registers of devices/pci/pci_hotplug.h. */
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
            /* A status other than success, of a notification of type 3 (release) or of the guest's own release */
            Method (STAT, 3)
            {
                If (((Arg1 & 0xFF) == 3) && (Arg2 & 0xFF))
                {
                    STAS = (Arg0 << 24) | (Arg2 & 0xFF)
                }
            }
            Device (S01)
            {
                Name (_ADR, 0x00010000)
                Name (_SUN, 1)
                Method (_EJ0, 1) { EJEC (1) }
                Method (_OST, 3) { STAT (1, Arg0, Arg1) }
            }
            Device (S02)
            {
                Name (_ADR, 0x00020000)
                Name (_SUN, 2)
                Method (_EJ0, 1) { EJEC (2) }
                Method (_OST, 3) { STAT (2, Arg0, Arg1) }
            }
            Device (S03)
            {
                Name (_ADR, 0x00030000)
                Name (_SUN, 3)
                Method (_EJ0, 1) { EJEC (3) }
                Method (_OST, 3) { STAT (3, Arg0, Arg1) }
            }
            Device (S04)
            {
                Name (_ADR, 0x00040000)
                Name (_SUN, 4)
                Method (_EJ0, 1) { EJEC (4) }
                Method (_OST, 3) { STAT (4, Arg0, Arg1) }
            }
            Device (S05)
            {
                Name (_ADR, 0x00050000)
                Name (_SUN, 5)
                Method (_EJ0, 1) { EJEC (5) }
                Method (_OST, 3) { STAT (5, Arg0, Arg1) }
            }
            Device (S06)
            {
                Name (_ADR, 0x00060000)
                Name (_SUN, 6)
                Method (_EJ0, 1) { EJEC (6) }
                Method (_OST, 3) { STAT (6, Arg0, Arg1) }
            }
            Device (S07)
            {
                Name (_ADR, 0x00070000)
                Name (_SUN, 7)
                Method (_EJ0, 1) { EJEC (7) }
                Method (_OST, 3) { STAT (7, Arg0, Arg1) }
            }
            Device (S08)
            {
                Name (_ADR, 0x00080000)
                Name (_SUN, 8)
                Method (_EJ0, 1) { EJEC (8) }
                Method (_OST, 3) { STAT (8, Arg0, Arg1) }
            }
            Device (S09)
            {
                Name (_ADR, 0x00090000)
                Name (_SUN, 9)
                Method (_EJ0, 1) { EJEC (9) }
                Method (_OST, 3) { STAT (9, Arg0, Arg1) }
            }
            Device (S0A)
            {
                Name (_ADR, 0x000A0000)
                Name (_SUN, 10)
                Method (_EJ0, 1) { EJEC (10) }
                Method (_OST, 3) { STAT (10, Arg0, Arg1) }
            }
            Device (S0B)
            {
                Name (_ADR, 0x000B0000)
                Name (_SUN, 11)
                Method (_EJ0, 1) { EJEC (11) }
                Method (_OST, 3) { STAT (11, Arg0, Arg1) }
            }
            Device (S0C)
            {
                Name (_ADR, 0x000C0000)
                Name (_SUN, 12)
                Method (_EJ0, 1) { EJEC (12) }
                Method (_OST, 3) { STAT (12, Arg0, Arg1) }
            }
            Device (S0D)
            {
                Name (_ADR, 0x000D0000)
                Name (_SUN, 13)
                Method (_EJ0, 1) { EJEC (13) }
                Method (_OST, 3) { STAT (13, Arg0, Arg1) }
            }
            Device (S0E)
            {
                Name (_ADR, 0x000E0000)
                Name (_SUN, 14)
                Method (_EJ0, 1) { EJEC (14) }
                Method (_OST, 3) { STAT (14, Arg0, Arg1) }
            }
            Device (S0F)
            {
                Name (_ADR, 0x000F0000)
                Name (_SUN, 15)
                Method (_EJ0, 1) { EJEC (15) }
                Method (_OST, 3) { STAT (15, Arg0, Arg1) }
            }
            Device (S10)
            {
                Name (_ADR, 0x00100000)
                Name (_SUN, 16)
                Method (_EJ0, 1) { EJEC (16) }
                Method (_OST, 3) { STAT (16, Arg0, Arg1) }
            }
            Device (S11)
            {
                Name (_ADR, 0x00110000)
                Name (_SUN, 17)
                Method (_EJ0, 1) { EJEC (17) }
                Method (_OST, 3) { STAT (17, Arg0, Arg1) }
            }
            Device (S12)
            {
                Name (_ADR, 0x00120000)
                Name (_SUN, 18)
                Method (_EJ0, 1) { EJEC (18) }
                Method (_OST, 3) { STAT (18, Arg0, Arg1) }
            }
            Device (S13)
            {
                Name (_ADR, 0x00130000)
                Name (_SUN, 19)
                Method (_EJ0, 1) { EJEC (19) }
                Method (_OST, 3) { STAT (19, Arg0, Arg1) }
            }
            Device (S14)
            {
                Name (_ADR, 0x00140000)
                Name (_SUN, 20)
                Method (_EJ0, 1) { EJEC (20) }
                Method (_OST, 3) { STAT (20, Arg0, Arg1) }
            }
            Device (S15)
            {
                Name (_ADR, 0x00150000)
                Name (_SUN, 21)
                Method (_EJ0, 1) { EJEC (21) }
                Method (_OST, 3) { STAT (21, Arg0, Arg1) }
            }
            Device (S16)
            {
                Name (_ADR, 0x00160000)
                Name (_SUN, 22)
                Method (_EJ0, 1) { EJEC (22) }
                Method (_OST, 3) { STAT (22, Arg0, Arg1) }
            }
            Device (S17)
            {
                Name (_ADR, 0x00170000)
                Name (_SUN, 23)
                Method (_EJ0, 1) { EJEC (23) }
                Method (_OST, 3) { STAT (23, Arg0, Arg1) }
            }
            Device (S18)
            {
                Name (_ADR, 0x00180000)
                Name (_SUN, 24)
                Method (_EJ0, 1) { EJEC (24) }
                Method (_OST, 3) { STAT (24, Arg0, Arg1) }
            }
            Device (S19)
            {
                Name (_ADR, 0x00190000)
                Name (_SUN, 25)
                Method (_EJ0, 1) { EJEC (25) }
                Method (_OST, 3) { STAT (25, Arg0, Arg1) }
            }
            Device (S1A)
            {
                Name (_ADR, 0x001A0000)
                Name (_SUN, 26)
                Method (_EJ0, 1) { EJEC (26) }
                Method (_OST, 3) { STAT (26, Arg0, Arg1) }
            }
            Device (S1B)
            {
                Name (_ADR, 0x001B0000)
                Name (_SUN, 27)
                Method (_EJ0, 1) { EJEC (27) }
                Method (_OST, 3) { STAT (27, Arg0, Arg1) }
            }
            Device (S1C)
            {
                Name (_ADR, 0x001C0000)
                Name (_SUN, 28)
                Method (_EJ0, 1) { EJEC (28) }
                Method (_OST, 3) { STAT (28, Arg0, Arg1) }
            }
            Device (S1D)
            {
                Name (_ADR, 0x001D0000)
                Name (_SUN, 29)
                Method (_EJ0, 1) { EJEC (29) }
                Method (_OST, 3) { STAT (29, Arg0, Arg1) }
            }
            Device (S1E)
            {
                Name (_ADR, 0x001E0000)
                Name (_SUN, 30)
                Method (_EJ0, 1) { EJEC (30) }
                Method (_OST, 3) { STAT (30, Arg0, Arg1) }
            }
            Device (S1F)
            {
                Name (_ADR, 0x001F0000)
                Name (_SUN, 31)
                Method (_EJ0, 1) { EJEC (31) }
                Method (_OST, 3) { STAT (31, Arg0, Arg1) }
            }
            Method (TELL, 2)
            {
                If (Arg0 & 0x00000002) { Notify (S01, Arg1) }
                If (Arg0 & 0x00000004) { Notify (S02, Arg1) }
                If (Arg0 & 0x00000008) { Notify (S03, Arg1) }
                If (Arg0 & 0x00000010) { Notify (S04, Arg1) }
                If (Arg0 & 0x00000020) { Notify (S05, Arg1) }
                If (Arg0 & 0x00000040) { Notify (S06, Arg1) }
                If (Arg0 & 0x00000080) { Notify (S07, Arg1) }
                If (Arg0 & 0x00000100) { Notify (S08, Arg1) }
                If (Arg0 & 0x00000200) { Notify (S09, Arg1) }
                If (Arg0 & 0x00000400) { Notify (S0A, Arg1) }
                If (Arg0 & 0x00000800) { Notify (S0B, Arg1) }
                If (Arg0 & 0x00001000) { Notify (S0C, Arg1) }
                If (Arg0 & 0x00002000) { Notify (S0D, Arg1) }
                If (Arg0 & 0x00004000) { Notify (S0E, Arg1) }
                If (Arg0 & 0x00008000) { Notify (S0F, Arg1) }
                If (Arg0 & 0x00010000) { Notify (S10, Arg1) }
                If (Arg0 & 0x00020000) { Notify (S11, Arg1) }
                If (Arg0 & 0x00040000) { Notify (S12, Arg1) }
                If (Arg0 & 0x00080000) { Notify (S13, Arg1) }
                If (Arg0 & 0x00100000) { Notify (S14, Arg1) }
                If (Arg0 & 0x00200000) { Notify (S15, Arg1) }
                If (Arg0 & 0x00400000) { Notify (S16, Arg1) }
                If (Arg0 & 0x00800000) { Notify (S17, Arg1) }
                If (Arg0 & 0x01000000) { Notify (S18, Arg1) }
                If (Arg0 & 0x02000000) { Notify (S19, Arg1) }
                If (Arg0 & 0x04000000) { Notify (S1A, Arg1) }
                If (Arg0 & 0x08000000) { Notify (S1B, Arg1) }
                If (Arg0 & 0x10000000) { Notify (S1C, Arg1) }
                If (Arg0 & 0x20000000) { Notify (S1D, Arg1) }
                If (Arg0 & 0x40000000) { Notify (S1E, Arg1) }
                If (Arg0 & 0x80000000) { Notify (S1F, Arg1) }
            }
        }

        /* Linux trusts MCFG only when a device claims the ECAM window. */
        Device (MBRD)
        {
            Name (_HID, EisaId ("PNP0C02"))
            Name (_UID, 1)
            Name (_CRS, ResourceTemplate ()
            {
                Memory32Fixed (ReadWrite, 0xE0000000, 0x00100000)
                IO (Decode16, 0xAE00, 0xAE00, 1, 0x10)
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
        Method (_E01)
        {
            \_SB.PCI0.TELL (\_SB.PCI0.PLUG, 1)
            \_SB.PCI0.TELL (\_SB.PCI0.ASKD, 3)
        }
        Method (_E05)
        {
            Notify (\_SB.VGEN, 0x80)
        }
    }
}
