//# Tile kernels: sizes and workgroup memory.
const BLOCK_M = ${ block_m }u;
const BLOCK_N = ${ block_n }u;
const TR = ${ tr }u;
const TC = ${ tc }u;
const HEAD_DIM = ${ head_dim }u;
const MR = BLOCK_M / TR;
const D4 = HEAD_DIM / 4u;
const OC = D4 / TC;                 // vec4 columns of O per invocation
const DC4 = ${ dc }u / 4u;          // vec4s of the head dimension staged at a time
const CHUNKS = D4 / DC4;
const LD = DC4 + 1u;                // odd: neighbouring rows start in different banks
const VR = ${ vr }u;                // rows of V staged at a time
const VBASE = ${ vbase }u;
const STAGE = ${ stage }u;
const LP = BLOCK_N / 4u + 1u;
//% if stage_f16
alias Staged = vec4<f16>;
//% else
alias Staged = vec4<f32>;
//% endif

var<workgroup> sh: array<Staged, STAGE>;             // Q chunk and K chunk, then V rows
var<workgroup> ps: array<vec4<f32>, BLOCK_M * LP>;   // P: one vec4 = four keys of a row
//% if not subgroups
var<workgroup> red: array<f32, BLOCK_M * TC>;
//% endif
// Set once a V row of a boundary tile holds inf or NaN: then 0 · V is no longer 0.
var<workgroup> not_finite: atomic<u32>;
