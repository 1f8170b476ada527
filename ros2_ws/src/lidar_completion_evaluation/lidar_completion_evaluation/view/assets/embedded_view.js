// Draws one sweep: measured points white, completed points by confidence or by distance to the truth.
// data: base64 of int16 x, y, z (metres / step), uint8 confidence and uint8 distance of every point. Measured points come
// first, completed points follow in falling order of confidence, so that a threshold is a length.
function drawSweep(view, data) {
  const find = (name) => view.querySelector("." + name);
  const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const positions = new Int16Array(bytes(data.positions).buffer);
  const confidence = bytes(data.confidence);
  const palettes = { confidence: bytes(data.confidencePalette), distance: bytes(data.distancePalette) };
  const values = { confidence, distance: data.distance ? bytes(data.distance) : null };

  function cloud(first, count, colours) {
    const geometry = new THREE.BufferGeometry();
    geometry.setAttribute("position", new THREE.BufferAttribute(positions.subarray(3 * first, 3 * (first + count)), 3));
    geometry.setAttribute("color", new THREE.BufferAttribute(colours, 3, true));
    const points = new THREE.Points(geometry, new THREE.PointsMaterial({ size: data.pointSize, vertexColors: true }));
    points.scale.setScalar(data.step);
    points.frustumCulled = false;
    return points;
  }

  function coloursBy(name) {
    const colours = new Uint8Array(3 * data.completed);
    for (let i = 0; i < data.completed; i++) {
      const entry = 3 * values[name][i];
      colours.set(palettes[name].subarray(entry, entry + 3), 3 * i);
    }
    return colours;
  }

  const holder = find("lidar-view-canvas");
  let renderer;
  try {
    renderer = new THREE.WebGLRenderer({ antialias: true, alpha: true });
  } catch (error) {
    holder.textContent = "The 3-D view needs WebGL, which this browser does not provide.";
    return;
  }
  renderer.outputColorSpace = "srgb-linear"; // colours are shown as given
  holder.append(renderer.domElement);
  const scene = new THREE.Scene();
  const measured = cloud(0, data.measured, new Uint8Array(3 * data.measured).fill(255));
  const completed = cloud(data.measured, data.completed, coloursBy("confidence"));
  scene.add(measured, completed);
  const camera = new THREE.PerspectiveCamera(60, 1, 0.2, 500);
  camera.up.set(0, 0, 1);
  const controls = new THREE.OrbitControls(camera, renderer.domElement);
  const render = () => renderer.render(scene, camera);

  function look(name) {
    const [eye, target] = data.presets[name];
    camera.position.set(...eye);
    controls.target.set(...target);
    controls.update();
    render();
  }

  function threshold() {
    const minimum = Number(find("min-confidence").value);
    let low = 0, high = data.completed; // confidence falls: binary search for the first below the threshold
    while (low < high) {
      const middle = (low + high) >> 1;
      if (confidence[middle] / 255 >= minimum) low = middle + 1; else high = middle;
    }
    completed.geometry.setDrawRange(0, low);
    find("min-confidence-value").textContent = minimum.toFixed(2);
    view.dataset.shown = low;
    find("shown").textContent = `${low.toLocaleString("en")} of ${data.completed.toLocaleString("en")} completed points` +
      (data.thinned ? `, ${data.thinned}` : "");
    render();
  }

  function colour(name) {
    completed.geometry.setAttribute("color", new THREE.BufferAttribute(coloursBy(name), 3, true));
    const pen = find("scale").getContext("2d");
    for (let x = 0; x < 110; x++) {
      const entry = 3 * Math.round((255 * x) / 109);
      pen.fillStyle = `rgb(${palettes[name].slice(entry, entry + 3).join(",")})`;
      pen.fillRect(x, 0, 1, 10);
    }
    find("scale-text").textContent = name === "confidence" ? "confidence 0 to 1" : `distance to truth 0 to ${data.maxDistance} m`;
    view.dataset.colour = name;
    render();
  }

  function resize() {
    const { clientWidth, clientHeight } = holder;
    renderer.setPixelRatio(window.devicePixelRatio);
    renderer.setSize(clientWidth, clientHeight);
    camera.aspect = clientWidth / clientHeight;
    camera.updateProjectionMatrix();
    render();
  }

  controls.addEventListener("change", render);
  find("min-confidence").addEventListener("input", threshold);
  find("colour-by")?.addEventListener("change", (event) => colour(event.target.value));
  find("show-measured").addEventListener("change", (event) => { measured.visible = event.target.checked; render(); });
  view.querySelectorAll(".preset").forEach((button) => button.addEventListener("click", () => look(button.dataset.preset)));
  new ResizeObserver(resize).observe(holder);
  colour("confidence");
  threshold();
  look(Object.keys(data.presets)[0]);
}
