// Tint through Dawn's Node module: `node tint.mjs FOLDER_OF_THE_MODULE FOLDER_OF_SOURCES`.
//
// Makes a shader module of every N.wgsl on a device that computes nothing (Dawn's null backend).
// Prints `N<TAB>message` for each that is rejected and at the end `read COUNT`.
import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const [module, folder] = process.argv.slice(2);
const { create } = await import(pathToFileURL(resolve(module, 'index.js')));
// Held to the end: Dawn frees the instance with this object, whatever was made from it.
globalThis.gpu = create(['backend=null']);
const adapter = await gpu.requestAdapter();
const device = await adapter.requestDevice({ requiredFeatures: ['shader-f16', 'subgroups'] });

const files = readdirSync(folder).filter((name) => name.endsWith('.wgsl'));
for (const name of files) {
    const code = readFileSync(join(folder, name), 'utf8');
    device.pushErrorScope('validation');
    const info = await device.createShaderModule({ code }).getCompilationInfo();
    await device.popErrorScope();
    const errors = info.messages.filter((m) => m.type === 'error');
    if (errors.length > 0) {
        const text = errors.map((m) => `${m.lineNum}:${m.linePos} ${m.message}`).join('\\n');
        console.log(`${name.replace('.wgsl', '')}\t${text.replaceAll('\n', '\\n')}`);
    }
}
console.log(`read ${files.length}`);
process.exit(0);
