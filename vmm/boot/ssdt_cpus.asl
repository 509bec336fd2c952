/*
 * vCPUs that come and go (devices/cpu_hotplug.h). The processors themselves, and the event's method, follow this
 * table's content (vmm/boot/cpus_aml.h).
 */
DefinitionBlock ("ssdt.aml", "SSDT", 2, "CAIRN ", "CAIRNCPU", 1)
{
    Scope (\_SB)
    {
        Device (CPUR)
        {
            Name (_HID, EisaId ("PNP0A06"))
            Name (_UID, "CPU hot-plug")
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0xAE10, 0xAE10, 1, 4)
            })
        }

        Device (CPUS)
        {
            Name (_HID, "ACPI0010")
            Name (_CID, EisaId ("PNP0A05"))
            OperationRegion (CREG, SystemIO, 0xAE10, 4)
            Field (CREG, ByteAcc, NoLock, WriteAsZeros)
            {
                CSEL, 8,
                CFLG, 8,
                CSTS, 8
            }
            Mutex (CLCK, 0)

            /* _STA of vCPU Arg0. */
            Method (CSTA, 1, Serialized)
            {
                Acquire (CLCK, 0xFFFF)
                Local0 = 0
                CSEL = Arg0
                If (CFLG & 1)
                {
                    Local0 = 0x0F
                }
                Release (CLCK)
                Return (Local0)
            }

            Method (CEJE, 1, Serialized)
            {
                Acquire (CLCK, 0xFFFF)
                CSEL = Arg0
                CFLG = 8
                Release (CLCK)
            }

            /* _OST with Arg1, Arg2: a status other than success, of a notification of type 3. */
            Method (COST, 3, Serialized)
            {
                If (((Arg1 & 0xFF) == 3) && (Arg2 & 0xFF))
                {
                    Acquire (CLCK, 0xFFFF)
                    CSEL = Arg0
                    CSTS = (Arg2 & 0xFF)
                    Release (CLCK)
                }
            }

            /* Return the type of the notification that is due, and take it: 1: the vCPU has come; 3: it is to go. */
            Method (CEVT, 1, Serialized)
            {
                Acquire (CLCK, 0xFFFF)
                CSEL = Arg0
                Local0 = CFLG
                Local1 = 0
                If (Local0 & 2)
                {
                    CFLG = 2
                    Local1 = 1
                }
                ElseIf (Local0 & 4)
                {
                    CFLG = 4
                    Local1 = 3
                }
                Release (CLCK)
                Return (Local1)
            }
        }
    }
}
