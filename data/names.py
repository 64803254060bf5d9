"""From the data set's names to our classes: regions, CheXpert classes of entities, severities.

The data set has some 310 region and 230 entity names; the heads have 26 regions and 14 CheXpert classes. Every step
between them is an explicit row below. A name without a row is unknown: it is reported, never guessed.

Rules for regions: a fine name climbs to the nearest canonical region (`left 4th posterior rib` -> left chest wall);
a name of a paired organ without its side stands for both sides (`lungs`), and a given laterality restricts it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from data.label_space import CHEXPERT, REGIONS, SEVERITIES


def _canonical(text: str) -> str:
    """Lower case, single spaces, no punctuation between words."""
    return " ".join(re.sub(r"[\s_\-/,.;:]+", " ", text.lower()).split())


def _singular(name: str) -> str:
    """`name` with its last word in the singular (regular English plurals only)."""
    if name.endswith("ies"):
        return name[:-3] + "y"
    if name.endswith("sses"):
        return name[:-2]
    return name[:-1] if name.endswith("s") and not name.endswith(("ss", "us", "is")) else name


def _rows(text: str) -> list[str]:
    return [" ".join(row.split()) for row in text.split(";")]


# --- Regions -----------------------------------------------------------------------------------------------------

# Names of single organs: their own side, if they have one (`left ventricle`), does not matter.
_MIDLINE: dict[str, str] = {
    "mediastinum": """mediastinum; mediastinal; upper mediastinum; superior mediastinum; lower mediastinum;
        inferior mediastinum; anterior mediastinum; middle mediastinum; posterior mediastinum; mediastinal contour;
        mediastinal silhouette; mediastinal lymph node; mediastinal structure; cardiomediastinum;
        cardiomediastinal silhouette; cardiomediastinal contour; superior vena cava; cavoatrial junction; azygos vein;
        azygos region; hemiazygos vein; brachiocephalic vein; innominate vein; brachiocephalic artery;
        pulmonary trunk; main pulmonary artery; aortopulmonary window; aorticopulmonary window; paratracheal stripe;
        paratracheal region; subcarinal region; retrosternal space; thymus; esophagus; oesophagus; upper esophagus;
        middle esophagus; mid esophagus; lower esophagus; distal esophagus; great vessel""",
    "heart": """heart; cardiac; cardiac silhouette; cardiac shadow; cardiac contour; heart silhouette; heart shadow;
        heart border; cardiac border; heart apex; cardiac apex; heart myocardium; myocardium; pericardium; pericardial;
        pericardial space; atrium; atria; heart atrium; atrial appendage; ventricle; heart ventricle; coronary artery;
        aortic valve; mitral valve; tricuspid valve; pulmonary valve; pulmonic valve; heart valve""",
    "aorta": """aorta; thoracic aorta; aortic; aortic arch; aortic knob; ascending aorta; descending aorta;
        descending thoracic aorta; aortic contour""",
    # The carina is where the trachea ends; airways in general are named for the trachea on a chest film.
    "trachea": """trachea; tracheal; tracheal air column; carina; tracheal bifurcation; airway; central airway;
        upper airway""",
    "spine": """spine; vertebral column; spinal column; spinal; cervical spine; thoracic spine; lumbar spine;
        thoracolumbar spine; vertebra; vertebrae; cervical vertebrae; thoracic vertebrae; lumbar vertebrae;
        cervical vertebra; thoracic vertebra; lumbar vertebra; vertebral body; intervertebral disc;
        intervertebral disk; spinal canal; paraspinal line; paraspinal region; paravertebral region""",
    # The inferior vena cava is abdominal but for its last centimetres, and so are the filters seen in it.
    "abdomen": """abdomen; abdominal; upper abdomen; upper quadrant; upper abdominal quadrant; stomach; gastric;
        gastric bubble; stomach bubble; gastric fundus; gastric body; gastroesophageal junction; pylorus; duodenum;
        small bowel; jejunum; bowel; colon; large bowel; transverse colon; hepatic flexure; splenic flexure; liver;
        gallbladder; spleen; pancreas; kidney; adrenal gland; adrenal; peritoneum; free peritoneal space;
        peritoneal cavity; subdiaphragmatic region; subdiaphragmatic space; inferior vena cava""",
    "neck": """neck; lower neck; thyroid gland; thyroid; larynx; pharynx; hypopharynx; supraclavicular fossa;
        supraclavicular region; sternocleidomastoid muscle; trapezius muscle; internal jugular vein; jugular vein;
        common carotid artery; carotid artery; cervical soft tissue""",
}

# Names of paired organs, by their (right, left) canonical region; None: there is none on that side.
_PAIRED: dict[tuple[str | None, str | None], str] = {
    # The pleura is the lining of each lung, so a finding on it lies at that lung; the costophrenic angle is only one
    # of its corners and has a name of its own. Fissures and the cardiophrenic recess are folds of the same lining.
    ("right lung", "left lung"): """lung; lung field; lung parenchyma; parenchyma; pulmonary; hemithorax; interstitial;
        interstitium; lung interstitium; lung periphery; peripheral lung; pleura; pleurae; pleural; pleural space;
        pleural cavity; lung vessel; pulmonary vasculature; pulmonary vessel; major fissure; oblique fissure; fissure;
        cardiophrenic angle; cardiophrenic sulcus; segmental bronchi; segmental bronchus""",
    ("right lung", None): "minor fissure; horizontal fissure; azygos fissure",
    ("right upper lobe", "left upper lobe"): """upper lobe; upper lung lobe; upper lung zone; upper zone;
        upper zone lung; upper lung; upper lung field; apical zone; apical region; apical lung; lung apex; lung apices;
        apex; apices; anterior segment""",
    ("right upper lobe", None): "apical segment; posterior segment",
    (None, "left upper lobe"): """lingula; lingular; lingular lobe; lingular segment; superior lingular segment;
        inferior lingular segment; apicoposterior segment""",
    ("right middle lobe", None): "middle lobe; middle lung lobe; lateral segment; medial segment",
    # There is no left middle lobe: the middle of the left lung on a frontal film is lingula and upper lobe.
    ("right middle lobe", "left upper lobe"): """mid lung zone; middle lung zone; mid zone; middle zone; mid zone lung;
        middle zone lung; mid lung; middle lung; mid lung field; middle lung field""",
    ("right lower lobe", "left lower lobe"): """lower lobe; lower lung lobe; lower lung zone; lower zone;
        lower zone lung; lower lung; lower lung field; lung base; base; basal zone; basilar region; basal region;
        basilar lung; basal lung; retrocardiac space; retrocardiac region; retrocardiac; superior segment;
        basal segment; anterior basal segment; lateral basal segment; posterior basal segment; medial basal segment;
        anteromedial basal segment; pulmonary ligament; inferior pulmonary ligament""",
    # Main and lobar bronchi and vessels make up the hilum; segmental ones already lie inside the lung.
    ("right hilum", "left hilum"): """hilum; hila; hilar; hilar structure; hilar region; lung hilum; pulmonary hilum;
        pulmonary hila; hilar lymph node; perihilar region; perihilar; perihilar lung; perihilar area;
        infrahilar region; suprahilar region; main bronchus; main stem bronchus; mainstem bronchus; bronchus; bronchi;
        upper lobe bronchus; lower lobe bronchus; pulmonary artery; pulmonary vein; superior pulmonary vein;
        inferior pulmonary vein""",
    ("right hilum", None): "bronchus intermedius; intermediate bronchus; middle lobe bronchus",
    ("right costophrenic angle", "left costophrenic angle"): """costophrenic angle; costophrenic sulcus;
        costophrenic recess; costodiaphragmatic recess; cp angle""",
    ("right hemidiaphragm", "left hemidiaphragm"): "hemidiaphragm; diaphragm; diaphragmatic; diaphragmatic contour",
    # Sternum and skin lie on both sides of the midline.
    ("right chest wall", "left chest wall"): """chest wall; thoracic wall; rib; rib cage; ribcage;
        costovertebral junction; costochondral junction; sternum; manubrium; xiphoid process; xiphoid; sternal; breast;
        nipple; axilla; axillae; axillary region; pectoral muscle; pectoralis muscle; latissimus muscle; skin;
        soft tissue; chest wall soft tissue; subcutaneous tissue; subcutaneous fat""",
    # The subclavian vessels run behind the clavicle.
    ("right clavicle", "left clavicle"): """clavicle; clavicular; clavicle set; sternoclavicular joint;
        subclavian artery; subclavian vein""",
    ("right shoulder", "left shoulder"): """shoulder; shoulder joint; glenohumeral joint; acromioclavicular joint;
        acromion; scapula; scapulae; scapular; glenoid; humerus; humeri; humeral head; coracoid process""",
}

# Known names that lie in no canonical region, or in all of them.
_NOWHERE = """chest; thorax; thoracic cavity; thoracic cage; body; whole body; image; bone; skeleton;
    osseous structure; bony structure; bony thorax; arm; head"""

_ABBREVIATIONS: dict[str, str] = {
    "svc": "superior vena cava",
    "ivc": "inferior vena cava",
    "ap window": "aortopulmonary window",
    "rul": "right upper lobe",
    "rml": "right middle lobe",
    "rll": "right lower lobe",
    "lul": "left upper lobe",
    "lll": "left lower lobe",
    "bibasilar": "bilateral lung base",
    "bibasal": "bilateral lung base",
    "biapical": "bilateral lung apex",
}

# Names whose box IS the box of the canonical region, not that of a part of it.
_BOX_MIDLINE: dict[str, str] = {name: name for name in _MIDLINE} | {
    "cardiac silhouette": "heart",
    "cardiac shadow": "heart",
    "heart silhouette": "heart",
    "heart shadow": "heart",
    "vertebral column": "spine",
    "spinal column": "spine",
}
_BOX_PAIRED = frozenset(
    _rows(
        """lung; upper lobe; upper lung lobe; middle lobe; middle lung lobe; lower lobe; lower lung lobe; hilum;
        hilar structure; lung hilum; costophrenic angle; costophrenic sulcus; hemidiaphragm; diaphragm; chest wall;
        clavicle; shoulder"""
    )
)

_PARTS: dict[str, tuple[str, ...]] = {
    "right lung": ("right upper lobe", "right middle lobe", "right lower lobe"),
    "left lung": ("left upper lobe", "left lower lobe"),
}

_ORDINALS = _rows("first; second; third; fourth; fifth; sixth; seventh; eighth; ninth; tenth; eleventh; twelfth")
_RIB = re.compile(
    r"(?:(?:anterior|posterior|lateral|upper|lower|mid) )?(?:(?:(?P<n>\d{1,2})(?:st|nd|rd|th)?|(?P<word>[a-z]+)) )?"
    r"(?:(?:anterior|posterior|lateral) )?ribs?(?: (?P<after>\d{1,2}))?"
)
_VERTEBRA = re.compile(
    r"(?:(?P<part>cervical|thoracic|lumbar) )?(?:(?:vertebrae?|vertebral body|spine) )?"
    r"(?P<letter>[ctl])? ?(?P<n>\d{1,2})(?: vertebrae?| vertebral body)?"
)
_VERTEBRAE = {"c": 7, "t": 12, "l": 5}

_MIDLINE_OF = {name: region for region, names in _MIDLINE.items() for name in _rows(names)}
_PAIR_OF = {name: pair for pair, names in _PAIRED.items() for name in _rows(names)}
_NOWHERE_NAMES = frozenset(_rows(_NOWHERE))
_INDEX = {name: i for i, name in enumerate(REGIONS)}


@dataclass(frozen=True)
class RegionMatch:
    """What a region name stands for, together with a laterality."""

    regions: frozenset[int]
    """Indices into REGIONS; empty: a known name that lies in no canonical region"""
    union: bool
    """True: both sides and no side was said, so a finding here is at least at one of the regions"""
    conflict: bool
    """True: the name's own side contradicts the laterality; the name won"""


def parse_laterality(value: str | None) -> str | None:
    """`left`, `right`, `both`, or None where no side is said."""
    return _side_in(value) if isinstance(value, str) else None


@lru_cache(maxsize=8192)
def _side_in(text: str) -> str | None:
    words = set(_canonical(text).split())
    if words & {"bilateral", "bilaterally", "both"} or {"left", "right"} <= words:
        return "both"
    return next((side for side in ("left", "right") if side in words), None)


def _split_side(name: str) -> tuple[str, str | None]:
    """`posterior 6th rib right` -> (`posterior 6th rib`, `right`). The side may stand anywhere in the name."""
    name = _canonical(name)
    name = _ABBREVIATIONS.get(name, name)
    side = parse_laterality(name)
    sides = {"left", "right", "bilateral", "both"}
    base = [word for word in name.split() if word not in sides and not (side == "both" and word == "and")]
    return " ".join(base), side


def _look_up(base: str) -> tuple[str | None, str | None] | str | None:
    """A (right, left) pair, a single region, "" for nowhere, or None for an unknown name."""
    for name in (base, _singular(base)):
        if name in _PAIR_OF:
            return _PAIR_OF[name]
        if name in _MIDLINE_OF:
            return _MIDLINE_OF[name]
        if name in _NOWHERE_NAMES:
            return ""
    rib = _RIB.fullmatch(base)
    if rib and (rib["word"] is None or rib["word"] in _ORDINALS):
        return _PAIR_OF["rib"] if 1 <= int(rib["n"] or rib["after"] or 1) <= 12 else None
    vertebra = _VERTEBRA.fullmatch(base)
    if vertebra and (vertebra["letter"] or vertebra["part"]):
        letter = vertebra["letter"] or vertebra["part"][0]
        fits = (vertebra["part"] or letter)[0] == letter and 1 <= int(vertebra["n"]) <= _VERTEBRAE[letter]
        return "spine" if fits else None
    return None


@lru_cache(maxsize=8192)
def resolve_region(name: str, laterality: str | None = None) -> RegionMatch | None:
    """The canonical regions of a name. `laterality` is the finding's, as the data set writes it; None: unknown name."""
    base, side = _split_side(name)
    row = _look_up(base)
    if row is None:
        return None
    if isinstance(row, str):
        return RegionMatch(frozenset([_INDEX[row]] if row else []), union=False, conflict=False)
    options = {s: _INDEX[region] for s, region in zip(("right", "left"), row, strict=True) if region}
    said = parse_laterality(laterality)
    if side in ("left", "right"):
        if side not in options:
            return None  # `left middle lobe`: there is no such thing
        return RegionMatch(frozenset([options[side]]), union=False, conflict=said not in (None, "both", side))
    if side is None and said in options:
        return RegionMatch(frozenset([options[said]]), union=False, conflict=False)
    both_said = side == "both" or said == "both"
    conflict = said in ("left", "right") and said not in options
    return RegionMatch(frozenset(options.values()), union=len(options) > 1 and not both_said, conflict=conflict)


def region_set(name: str, laterality: str | None = None) -> frozenset[int] | None:
    """Indices into REGIONS of a name; None: unknown name; empty: known, but in no canonical region."""
    match = resolve_region(name, laterality)
    return None if match is None else match.regions


def region_is_union(name: str) -> bool:
    """True for a name of a paired organ that says no side (`lungs`): it stands for its parts on both sides."""
    match = resolve_region(name)
    return match is not None and match.union


@lru_cache(maxsize=8192)
def box_region(name: str) -> int | None:
    """The canonical region whose box this name's box is, or None. Never a climbed name: a rib is not the chest wall."""
    base, side = _split_side(name)
    for form in (base, _singular(base)):
        if side is None and form in _BOX_MIDLINE:
            return _INDEX[_BOX_MIDLINE[form]]
        if form in _BOX_PAIRED:
            match = resolve_region(name)
            return next(iter(match.regions)) if match is not None and len(match.regions) == 1 else None
    return None


def region_parts(region: int) -> frozenset[int]:
    """Canonical regions that lie inside a canonical region: the lobes of a lung, nothing for the others."""
    return frozenset(_INDEX[part] for part in _PARTS.get(REGIONS[region], ()))


# --- Entities ----------------------------------------------------------------------------------------------------

# The classes follow what the CheXpert labeller counts as a mention, where an entity of this data set says the same.
_CLASSES: dict[str, str] = {
    "Atelectasis": """atelectasis; basal atelectasis; linear atelectasis; plate-like atelectasis; discoid atelectasis;
        rounded atelectasis; subsegmental atelectasis; lobar collapse; lung collapse; lobar atelectasis;
        compressive atelectasis; bibasilar atelectasis""",
    "Cardiomegaly": "cardiomegaly; cardiac enlargement; enlarged heart; enlarged cardiac silhouette",
    "Consolidation": "consolidation; lung consolidation; focal consolidation",
    # "heart failure" is a diagnosis and stays outside; congestion of the vessels is its visible sign.
    "Edema": """edema; pulmonary edema; alveolar edema; interstitial edema; lung edema; vascular congestion;
        pulmonary vascular congestion; pulmonary congestion; central vascular congestion""",
    "Enlarged Cardiomediastinum": """enlarged cardiomediastinum; mediastinal widening; widened mediastinum;
        mediastinal enlargement; enlarged mediastinum""",
    "Fracture": """fracture; rib fracture; healed rib fracture; old rib fracture; old fracture; clavicle fracture;
        humerus fracture; scapula fracture; sternal fracture; compression fracture; vertebral fracture;
        vertebral compression fracture; pathologic fracture""",
    "Lung Lesion": """lung lesion; lesion; mass; lung mass; pulmonary mass; nodule; lung nodule; pulmonary nodule;
        multiple nodules; calcified nodule; nodular opacity; nodular density; granuloma; calcified granuloma;
        cavitation; cavitary lesion; lung cancer; lung carcinoma; tumor; lung tumor; neoplasm; lung neoplasm;
        lung metastasis; pulmonary metastasis""",
    "Lung Opacity": """opacity; lung opacity; alveolar opacity; airspace opacity; airspace disease; infiltrate;
        infiltration; ground glass opacity; interstitial opacity; interstitial pattern; interstitial lung disease;
        reticular opacity; reticular pattern; patchy opacity; hazy opacity; linear opacity; scarring;
        parenchymal scarring; lung scarring; apical scarring; bronchial wall thickening; peribronchial thickening""",
    # An empyema is infected, a hemothorax bloody fluid in the pleural space. "pericardial effusion" is elsewhere.
    "Pleural Effusion": """effusion; pleural effusion; loculated effusion; loculated pleural effusion;
        subpulmonic effusion; fissural fluid; pleural fluid; empyema; hemothorax; chylothorax; hydropneumothorax;
        hemopneumothorax""",
    "Pneumonia": """pneumonia; aspiration pneumonia; atypical pneumonia; bronchopneumonia; lobar pneumonia;
        covid-19 pneumonia; viral pneumonia; bacterial pneumonia; multifocal pneumonia; lung infection""",
    "Pneumothorax": "pneumothorax; tension pneumothorax; hydropneumothorax; hemopneumothorax",
    # The labeller counts "fibrosis" here, pulmonary or pleural.
    "Pleural Other": """pleural thickening; pleural plaque; pleural calcification; pleural mass; pleural scarring;
        fibrothorax; fibrosis; pulmonary fibrosis; lung fibrosis; apical capping; apical pleural thickening""",
    "Support Devices": """support device; device; medical device; tube; line; catheter; central venous catheter;
        central venous line; central line; picc line; picc; port catheter; port-a-cath; internal jugular catheter;
        internal jugular line; subclavian catheter; dialysis catheter; swan ganz catheter;
        pulmonary artery catheter; pigtail catheter; chest tube; pleural drain; mediastinal drain; drain;
        endotracheal tube; tracheostomy tube; nasogastric tube; orogastric tube; enteric tube; dobhoff tube;
        feeding tube; gastrostomy tube; oxygen tubing; pacemaker; pacemaker lead;
        implantable cardioverter defibrillator; defibrillator; icd; loop recorder; monitoring lead; ecg electrode;
        ecg lead; intra-aortic balloon pump;
        ventricular assist device; ecmo cannula; heart valve prosthesis; prosthetic valve; valve replacement;
        endobronchial valve; coronary stent; vascular stent; aortic stent graft; esophageal stent; tracheal stent;
        stent; inferior vena cava filter; gastric band; nerve stimulator; surgical clip; clip; surgical material;
        sternotomy wire; sternal wire; wire; orthopedic hardware; spinal hardware; hardware; screw; plate;
        prosthesis; shoulder prosthesis; breast implant; implant; fiducial marker""",
}

# Known names without a class: other findings, diagnoses that are no single class, artifacts and late effects of
# surgery. Left out on purpose although near to a class: costophrenic angle blunting, volume loss, cephalization,
# Kerley lines and cuffing (signs of several things), chamber enlargement (not the whole heart), mediastinal mass
# and metastasis (not said to be in the lung), aspiration and tuberculosis (not always pneumonia), bypass graft
# (a vein of the patient), foreign body and overlying object (not placed to support).
_OUTSIDE = """air trapping; alveolar hemorrhage; aortic aneurysm; aortic calcification; aortic dilation;
    aortic elongation; aortic tortuosity; ards; artifact; asbestosis; ascites; aspiration; asthma; azygos fissure;
    azygos lobe; bone deformity; bone lesion; bowel distension; bowel obstruction; bronchiectasis; bullae; bypass graft;
    calcification; cephalization; cervical rib; congestive heart failure; contusion; copd; coronary calcification;
    costophrenic angle blunting; cyst; degenerative changes; dextrocardia; diaphragmatic eventration;
    diaphragmatic hernia; dislocation; elevated hemidiaphragm; emphysema; flattened diaphragm; foreign body; gallstones;
    gastric distension; goiter; grid artifact; heart failure; hepatomegaly; hiatal hernia; hilar enlargement;
    hilar lymphadenopathy; honeycombing; hyperinflation; ileus; jewelry artifact; kerley lines; kyphosis;
    left atrial enlargement; left ventricular enlargement; lobectomy; low lung volumes; lung abscess; lymphadenopathy;
    lymphangitic spread; lytic lesion; mastectomy; mediastinal lymphadenopathy; mediastinal mass; mediastinal shift;
    metastasis; miliary pattern; motion artifact; nipple shadow; obscured diaphragm; osteopenia; osteophytes;
    osteoporosis; overexposure; overlying object; pectus excavatum; peribronchial cuffing; pericardial effusion;
    pleural abnormality; pneumoconiosis; pneumomediastinum; pneumonectomy; pneumopericardium; pneumoperitoneum;
    post radiation changes; postoperative changes; pulmonary embolism; pulmonary hemorrhage; pulmonary hypertension;
    pulmonary infarct; right ventricular enlargement; rotation artifact; sarcoidosis; sclerotic lesion; scoliosis;
    shoulder arthrosis; silicosis; skin fold; soft tissue calcification; soft tissue swelling; splenomegaly;
    spondylosis; sternotomy; subcutaneous emphysema; thyroid enlargement; tracheal deviation; tuberculosis;
    underexposure; unfolded aorta; valve calcification; volume loss"""

_OUTSIDE_NAMES = frozenset(_canonical(name) for name in _rows(_OUTSIDE))


def _classes_of_names() -> dict[str, frozenset[int]]:
    table: dict[str, frozenset[int]] = {}
    for label, names in _CLASSES.items():
        for name in map(_canonical, _rows(names)):
            table[name] = table.get(name, frozenset()) | {CHEXPERT.index(label)}
    return table


_CLASSES_OF = _classes_of_names()


@lru_cache(maxsize=8192)
def entity_classes(entity: str) -> frozenset[int] | None:
    """Indices into CHEXPERT of a finding or device; None: it has no class (see `is_known_entity` for why)."""
    name = _canonical(entity)
    return _CLASSES_OF.get(name) or _CLASSES_OF.get(_singular(name))


@lru_cache(maxsize=8192)
def is_known_entity(entity: str) -> bool:
    """Whether the tables know the name, be it with a class or without one."""
    name = _canonical(entity)
    return entity_classes(entity) is not None or name in _OUTSIDE_NAMES or _singular(name) in _OUTSIDE_NAMES


# --- Severity ----------------------------------------------------------------------------------------------------

_SEVERITY_WORDS: dict[str, str] = {
    "none": "none; no; absent",
    "mild": "mild; mildly; small; minimal; minimally; trace; slight; slightly; tiny; subtle",
    "moderate": "moderate; moderately; medium",
    "severe": "severe; severely; large; marked; markedly; significant; massive; extensive",
}
_SEVERITY_OF = {word: SEVERITIES.index(label) for label, words in _SEVERITY_WORDS.items() for word in _rows(words)}


def severity_index(word: str) -> int | None:
    """Index into SEVERITIES of one word of severity or size; None: unknown."""
    return _SEVERITY_OF.get(_canonical(word))
