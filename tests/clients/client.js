// npm's qemu-qmp, as it is: client.js SOCKET. A line of JSON for each thing seen.
const QMP = require('qemu-qmp')
const qmp = new QMP()

const say = (o) => console.log(JSON.stringify(o))
const run = (command, args) => new Promise((resolve, reject) =>
	qmp.execute(command, args, (err, value) => err ? reject(err) : resolve(value)))
const job = async (command, args) => {
	await run(command, { 'job-id': 'js', ...args })
	for (;;) {
		const [j] = (await run('query-jobs')).filter((x) => x.id === 'js')
		if (j.status === 'concluded') {
			await run('job-dismiss', { id: 'js' })
			return say({ job: j })
		}
	}
}

// Not RESUME: sockets have an event of that name themselves.
for (const event of ['stop', 'shutdown'])
	qmp.on(event, () => say({ event }))
qmp.on('end', () => say({ end: true }))

qmp.connect(process.argv[2], async (err) => {
	if (err) throw err
	const all = { tag: 'js', vmstate: 'vda', devices: ['vda'] }
	say({ greeting: qmp.version.qemu })
	say({ status: await run('query-status') })
	await run('stop')
	say({ status: await run('query-status') })
	await run('cont')
	await job('snapshot-save', all)
	await job('snapshot-load', all)
	await job('snapshot-delete', { tag: 'js', devices: ['vda'] })
	await run('job-dismiss', { id: 'none' }).catch((e) => say({ error: e.message }))
	await run('quit')
})
